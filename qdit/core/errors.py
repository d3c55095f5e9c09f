"""The errors a user can meet: one line saying what is wrong, the value found, what is allowed, what to do."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class QditError(Exception):
    """Base of every error that the CLI prints as one line before exiting with code 2.

    Names out of a file may hold line breaks and a terminal's escape codes: they become blanks.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(CONTROL.sub(" ", str(message)))


class ConfigError(QditError):
    """A configuration, option or argument is not allowed."""


class CheckpointError(QditError):
    """Weights or a quantized checkpoint cannot be used: missing, corrupt, or of another shape."""


class DataError(QditError):
    """A data file (calibration set, samples, statistics, metrics) cannot be used."""


class Diverged(DataError):
    """The images or clips of a model are not finite."""


class Unsupported(QditError):
    """A method does not support a bit width, model or mode; tables show the reason."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Inside this context the message of every error begins with the name of what it is about (a layer, a file)."""
    try:
        yield
    except QditError as problem:
        raise type(problem)(f"{what}: {problem}") from None


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """'; did you mean …?' for the closest allowed word, or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
