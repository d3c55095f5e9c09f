"""Errors that a user can see. A message is one line: what is wrong, the value, what is allowed, what to do next."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class QditError(Exception):
    """Base class of all errors that the command line prints as one line, with exit code 2.

    Names from a file may contain line breaks and escape codes of a terminal. They become blanks.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(CONTROL.sub(" ", str(message)))


class ConfigError(QditError):
    """Error: a configuration, option or argument is not allowed."""


class CheckpointError(QditError):
    """Error: weights or a checkpoint cannot be used. They are missing, damaged, or have another shape."""


class DataError(QditError):
    """Error: a data file (calibration set, samples, statistics, metrics) cannot be used."""


class Diverged(DataError):
    """Error: a model made images or clips with NaN or infinity."""


class Unsupported(QditError):
    """Error: a method does not support this bit width, model or mode. Tables show the reason."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Context manager: every error inside it gets a name before its message, for example of a layer or a file."""
    try:
        yield
    except QditError as problem:
        raise type(problem)(f"{what}: {problem}") from None


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Text '; did you mean …?' with the closest allowed word, or an empty text."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
