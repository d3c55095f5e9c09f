"""Write the blind A/B page, one HTML file with images, questions and a hidden key, and read it again to count votes.

Blind means: before the voter has finished, neither the visible page nor its source shows the name of a method in
readable form. The key says which method made which image. It is scrambled, not encrypted, so a person who analyses the
file can read it.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from qdit.core.errors import DataError
from qdit.core.files import parse_json, sha256_json, write_text
from qdit.core.run import UNQUANTIZED, Run
from qdit.report.data.published import printed_name
from qdit.report.render.page_files import script, style_sheet, template_text
from qdit.report.render.sheets import SMALL_SIDE, png
from qdit.report.votes.ab_trials import CONTROL, PAIR, SAME, Contest, Samples, Trial, draw_trials, picture
from qdit.report.votes.statistics import TIE

FORMAT = "qdit-ab-1"
LARGEST_MB = 40
"""Largest size of a page in MB: browsers on phones do not open larger ones."""


@dataclass(frozen=True)
class Question:
    """One question of the page: its kind, the title of the compared runs, the methods on the left and on the right.

    `answer` is the correct choice if the question tests the voter (catch trial); it is empty for other questions.
    """

    kind: str
    contest: str
    left: str
    right: str
    answer: str


@dataclass(frozen=True)
class Page:
    """What is needed to count votes: the `digest` that identifies the page, and its `questions` in order.

    `names` maps the names of the methods in the questions to names for readers.
    """

    digest: str
    profile: str
    questions: tuple[Question, ...]
    names: Mapping[str, str]


def write_page(
    profile: Mapping[str, Any],
    contests: Sequence[Contest],
    results: Path,
    out: Path,
    *,
    seed: int = 0,
    each: int = 2,
    catch: int = 4,
) -> list[str]:
    """Choose the questions at random, write the page, and return lines about it; equal results give equal bytes."""
    samples = Samples(results)
    trials, notes = draw_trials(profile, contests, samples, seed=seed, each=each, catch=catch)
    text = page_text(profile, trials, samples, seed=seed)
    if len(text) > LARGEST_MB * 1_000_000:
        raise DataError(
            f"the page would have {len(text) / 1e6:.0f} MB, at most {LARGEST_MB} are sensible;"
            " give a smaller --each, or fewer methods with --method"
        )
    write_text(out, text)
    kinds = [trial.kind for trial in trials]
    shown = list(dict.fromkeys(trial.contest.title for trial in trials))
    about = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds)))
    return [str(out), f"{len(trials)} trials ({about}) of {'; '.join(shown)}", *dict.fromkeys(notes)]


def page_text(profile: Mapping[str, Any], trials: Sequence[Trial], samples: Samples, *, seed: int) -> str:
    """Return the HTML of a page with these questions."""
    images: dict[str, int] = {}
    shown = []
    side = 0
    for trial in trials:
        (left, label), (right, other) = samples.image(trial.left, trial.image), samples.image(trial.right, trial.image)
        if label != other or left.shape != right.shape:
            raise DataError(
                f"image {trial.image} of {trial.left.label} and of {trial.right.label} differ in label or size"
                f" ({trial.contest.title}); run the workflow again"
            )
        places = [images.setdefault(_encoded(image), len(images)) for image in (left, right)]
        shown.append([*places, label])
        side = max(side, *left.shape[1:])
    data: dict[str, Any] = {"format": FORMAT, "profile": profile["profile"], "seed": seed, "small": side <= SMALL_SIDE}
    data |= {"images": list(images), "trials": shown}
    key = {"questions": [_question(trial) for trial in trials], "names": _names(profile, trials)}
    digest = sha256_json(data | {"key": key})
    data |= {"digest": digest, "key": scramble(json.dumps(key, sort_keys=True), digest)}
    return template_text(
        "ab.html.j2",
        css=style_sheet("ab.css"),
        script=script("ab.js"),
        data=Markup(json.dumps(data, sort_keys=True).replace("<", "\\u003c")),
        face=profile["face"],
        count=len(trials),
        digest=digest,
        seed=seed,
    )


def _encoded(image: np.ndarray) -> str:
    return base64.b64encode(png(picture(image))).decode("ascii")


def _question(trial: Trial) -> list[str]:
    left, right = (_name(trial, key) for key in (trial.left, trial.right))
    full = "left" if trial.left.bits == UNQUANTIZED else "right"
    answer = {PAIR: "", SAME: TIE, CONTROL: full}[trial.kind]
    return [trial.kind, trial.contest.title, left, right, answer]


def _name(trial: Trial, key: Run) -> str:
    """A run's label, followed by its bits if they are not those of the contest."""
    other_bits = key.bits not in (trial.contest.bits, UNQUANTIZED)
    return f"{key.label} {key.bits.upper()}" if other_bits else key.label


def _names(profile: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, str]:
    labels = {_name(trial, key): key.label for trial in trials for key in (trial.left, trial.right)}
    return {name: name.replace(label, printed_name(label), 1) for name, label in labels.items()}


def scramble(text: str, digest: str) -> str:
    """Make a text unreadable without the page's digest (exclusive or, then base64)."""
    return base64.b64encode(_mixed(text.encode("utf-8"), digest)).decode("ascii")


def unscramble(text: str, digest: str) -> str:
    """Undo `scramble`."""
    return _mixed(base64.b64decode(text, validate=True), digest).decode("utf-8")


def _mixed(data: bytes, digest: str) -> bytes:
    """Exclusive or with the repeated bytes of the digest."""
    mask = np.resize(np.frombuffer(bytes.fromhex(digest), np.uint8), len(data))
    return (np.frombuffer(data, np.uint8) ^ mask).tobytes()


def is_whole(page: Page) -> bool:
    """Return whether a page has only texts, known kinds of questions, and a name for both sides of every pair."""
    names = {*page.names, *page.names.values()}
    texts = {text for question in page.questions for text in vars(question).values()}
    pairs = [question for question in page.questions if question.kind == PAIR]
    return (
        all(isinstance(text, str) for text in names | texts)
        and all(question.kind in (PAIR, SAME, CONTROL) for question in page.questions)
        and all(
            question.left != question.right and {question.left, question.right} <= page.names.keys()
            for question in pairs
        )
    )


def read_page(path: Path) -> Page:
    """Read the questions of a page; DataError if the file is not an A/B page or does not match its digest."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `qdit ab` makes it, or give the page with --page") from None
    except UnicodeDecodeError:
        text = ""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    try:
        data = parse_json(match[1] if match else "null")
        key = parse_json(unscramble(data.pop("key"), data["digest"]))
        digest = data.pop("digest")
        questions = tuple(Question(*question) for question in key["questions"])
        page = Page(str(digest), str(data["profile"]), questions, dict(key["names"]))
        whole = data["format"] == FORMAT and sha256_json(data | {"key": key}) == digest and is_whole(page)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise DataError(f"{path}: not a page of `qdit ab`, or changed since; use the page that the voters had")
    return page
