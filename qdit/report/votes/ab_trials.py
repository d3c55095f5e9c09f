"""Choose the trials (questions) of a blind A/B page: two images of the same noise and label by two methods.

Catch trials among them test the voter. Every random choice is a hash of the seed and its purpose. So equal arguments
give equal trials on every machine. `qdit.core.seeds` cannot be used here, because it imports torch, and the report
never does.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qdit.core.errors import ConfigError, DataError, did_you_mean
from qdit.core.files import load_arrays
from qdit.core.metrics_record import Status
from qdit.core.run import UNQUANTIZED, Run, split_bits
from qdit.report.data.metrics_json import Row, read_run, with_status
from qdit.workflow.profile import full_precision_label, is_full

PAIR, SAME, CONTROL = "pair", "same", "control"
"""Kinds of trials: two methods; the same image twice; full precision against destroyed images."""


@dataclass(frozen=True)
class Contest:
    """Runs whose images are compared: equal setting, form, bits and scope. One of them is full precision."""

    setting: str
    form: str
    bits: str
    scope: str
    labels: tuple[str, ...]

    @property
    def title(self) -> str:
        """Title such as `digits-cfg1.0-s20 natural W4A4`; the scope follows if it is `own`."""
        scope = "" if self.scope == "common" else f" scope {self.scope}"
        return f"{self.setting} {self.form} {self.bits.upper()}{scope}"


@dataclass(frozen=True)
class Trial:
    """One question: the run on the left, the run on the right, and the number of the image that both show."""

    kind: str
    contest: Contest
    left: Run
    right: Run
    image: int


def drawn(seed: int, *what: object) -> int:
    """Return a pseudo-random number of 64 bits, the same for equal arguments."""
    text = "/".join(map(_drawn_from, (seed, "ab", *what)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _drawn_from(what: object) -> str:
    """The text that is hashed for a draw. Runs and trials have fixed texts, so that a rename changes no draw."""
    if isinstance(what, Run):
        bits = f"weight_bits={what.weight_bits}, activation_bits={what.activation_bits}"
        names = f"setting={what.setting!r}, form={what.form!r}, label={what.label!r}"
        return f"RunKey({names}, {bits}, scope={what.scope!r}, mode={what.mode!r})"
    if isinstance(what, Trial):
        sides = f"left={_drawn_from(what.left)}, right={_drawn_from(what.right)}"
        return f"Trial(kind={what.kind!r}, contest={what.contest!r}, {sides}, image={what.image!r})"
    return str(what)


def contests_of(
    profile: Mapping[str, Any],
    *,
    table: str | None = None,
    settings: Sequence[str] = (),
    forms: Sequence[str] = (),
    bits: Sequence[str] = (),
    methods: Sequence[str] = (),
) -> list[Contest]:
    """Return the runs to compare: one Contest for each block and bits of a table that match the arguments.

    The default table is the first of kind `table2`. If `settings`, `forms` and `bits` are all empty, only the contest
    with the fewest bits is returned, because there the images of methods differ most. ConfigError for a name that no
    block of the table has, and if no block matches.
    """
    table = table or next((name for name, contests in profile["tables"].items() if contests["kind"] == "table2"), None)
    if table not in profile["tables"]:
        raise ConfigError(f"table {table!r} is not in the profile; allowed are {', '.join(profile['tables'])}")
    blocks, contests = profile["tables"][table]["blocks"], []
    for flag, words, known in (
        ("setting", settings, [block["setting"] for block in blocks]),
        ("form", forms, [block["form"] for block in blocks]),
        ("bits", bits, [some for block in blocks for some in block["bits"]]),
        ("method", methods, [label for block in blocks for label in block["methods"]]),
    ):
        for word in words:
            if word not in known:
                names = ", ".join(dict.fromkeys(known))
                raise ConfigError(f"--{flag} {word!r}: {table} has {names}{did_you_mean(word, known)}; take one")
    for block in blocks:
        labels = tuple(label for label in block["methods"] if not methods or label in methods)
        for some in block["bits"]:
            if _fits(block["setting"], settings) and _fits(block["form"], forms) and _fits(some, bits):
                contests.append(Contest(block["setting"], block["form"], some, block["scope"], labels))
    contests = [contest for contest in dict.fromkeys(contests) if len(contest.labels) > 1]
    if not contests:
        raise ConfigError(
            f"no block of {table} has two of these methods at this choice of setting, form and bits; see qdit ls"
        )
    if settings or forms or bits:
        return contests
    return [min(contests, key=lambda contest: sum(split_bits(contest.bits)))]


def _fits(word: str, allowed: Sequence[str]) -> bool:
    return not allowed or word in allowed


def key_of(profile: Mapping[str, Any], contest: Contest, label: str) -> Run:
    """Return the run of a method (its label) among the compared runs."""
    bits = UNQUANTIZED if is_full(profile, label) else contest.bits
    return Run(contest.setting, contest.form, label, bits, contest.scope)


def destroyed_of(profile: Mapping[str, Any], contest: Contest) -> Run | None:
    """Return a run with destroyed images at the same setting and form: the negative control of the quality control.

    None if the profile has no such run.
    """
    for definition in profile["tables"].values():
        for block in definition["blocks"] if definition["kind"] == "qc" else ():
            if (block["setting"], block["form"]) == (contest.setting, contest.form):
                label = next(label for label in block["methods"] if not is_full(profile, label))
                return Run(contest.setting, contest.form, label, block["bits"][0], block["scope"])
    return None


class Samples:
    """Reads images of runs below `results`, chunk by chunk, and keeps them. A run that is not measured has none."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.rows: dict[Run, Row] = {}
        self.chunks: dict[Path, dict[str, NDArray[Any]]] = {}

    def row(self, key: Run) -> Row:
        """Return the row of a run; its status says why the run cannot be shown."""
        if key not in self.rows:
            row = read_run(self.results, key)
            first = key.folder(self.results) / "samples" / "00000.npz"
            absent = row["state"] == Status.OK and not first.is_file()
            self.rows[key] = row | with_status(Status.MISSING, "no samples") if absent else row
        return self.rows[key]

    def is_there(self, key: Run) -> bool:
        """Return whether the run has metrics and images."""
        return bool(self.row(key)["state"] == Status.OK)

    def image(self, key: Run, number: int) -> tuple[NDArray[np.uint8], int]:
        """Return the image with this number, (C, H, W) uint8, and its class."""
        row = self.row(key)
        path = key.folder(self.results) / "samples" / f"{number // row['chunk']:05d}.npz"
        if path not in self.chunks:
            self.chunks[path] = load_arrays(path)
        chunk, row_of_chunk = self.chunks[path], number % row["chunk"]
        if len(chunk.get("images", ())) <= row_of_chunk or len(chunk.get("labels", ())) <= row_of_chunk:
            raise DataError(f"{path}: holds no image {row_of_chunk} with a label; sample the run again")
        image = chunk["images"][row_of_chunk]
        if image.dtype != np.uint8 or image.ndim != 3 or len(image) not in (1, 3):
            raise DataError(f"{path}: holds {image.dtype} of shape {image.shape}, no images; choose a table of images")
        return image, int(chunk["labels"][row_of_chunk])


def picture(image: NDArray[np.uint8]) -> Image.Image:
    """Turn an array (C, H, W) uint8 with C = 1 or 3 into a picture of the same size."""
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))


def draw_trials(
    profile: Mapping[str, Any], contests: Iterable[Contest], samples: Samples, *, seed: int, each: int, catch: int
) -> tuple[list[Trial], list[str]]:
    """Choose trials at random, in the order in which they are shown; also return notes on runs that are left out.

    Every pair of methods gets `each` trials in each contest. `catch` trials show the same image twice; equally many
    show full precision beside a destroyed image. DataError if no contest has two measured runs, or if runs have
    different protocols.
    """
    trials: list[Trial] = []
    notes: list[str] = []
    for contest in contests:
        keys = [key_of(profile, contest, label) for label in contest.labels]
        notes += [f"{key.label} {key.bits}: {samples.row(key)['status']}" for key in keys if not samples.is_there(key)]
        there = [key for key in keys if samples.is_there(key)]
        if len(there) < 2:
            continue
        images = _images(samples, there)
        for first, second in combinations(there, 2):
            for number in _numbers(seed, images, each, contest.title, first.label, second.label):
                trials.append(_sided(seed, PAIR, contest, (first, second), number))
    if not trials:
        raise DataError(f"{samples.results}: no two runs to compare ({'; '.join(notes)}); run the workflow first")
    trials += _catch_trials(profile, trials, samples, notes, seed=seed, catch=catch)
    return sorted(trials, key=lambda trial: drawn(seed, "order", trial)), notes


def _catch_trials(
    profile: Mapping[str, Any], trials: Sequence[Trial], samples: Samples, notes: list[str], *, seed: int, catch: int
) -> list[Trial]:
    """Catch trials, whose answer is known, spread over the contests."""
    contests = list(dict.fromkeys(trial.contest for trial in trials))
    catch_trials = []
    for turn in range(catch):
        contest = contests[turn % len(contests)]
        shown = [key for trial in trials if trial.contest == contest for key in (trial.left, trial.right)]
        there = sorted(dict.fromkeys(shown), key=lambda key: drawn(seed, SAME, turn, key))
        images = _images(samples, there)
        catch_trials.append(Trial(SAME, contest, there[0], there[0], drawn(seed, SAME, "image", turn) % images))
        full = key_of(profile, contest, full_precision_label(profile))
        destroyed = destroyed_of(profile, contest)
        if destroyed is None or not (samples.is_there(full) and samples.is_there(destroyed)):
            notes.append(f"{contest.title}: no trials against destroyed images; the table qc makes these runs")
            continue
        number = drawn(seed, CONTROL, "image", turn) % _images(samples, [full, destroyed])
        catch_trials.append(_sided(seed, CONTROL, contest, (full, destroyed), number))
    return catch_trials


def _images(samples: Samples, keys: Sequence[Run]) -> int:
    """Number of images that all runs have; DataError if their protocols differ, since then their noise differs."""
    rows = [samples.row(key) for key in keys]
    if len({(row["protocol_sha256"], row["chunk"]) for row in rows}) > 1:
        names = ", ".join(f"{key.label} {key.bits}" for key in keys)
        raise DataError(f"{samples.results}: {names} were not sampled by one protocol; run the workflow again")
    return int(min(row["images"] for row in rows))


def _numbers(seed: int, images: int, each: int, *what: object) -> list[int]:
    """Different images for the trials of one pair."""
    return sorted(range(images), key=lambda number: drawn(seed, PAIR, *what, number))[:each]


def _sided(seed: int, kind: str, contest: Contest, pair: tuple[Run, Run], number: int) -> Trial:
    left, right = pair if drawn(seed, "side", kind, contest.title, *pair, number) % 2 else pair[::-1]
    return Trial(kind, contest, left, right, number)
