"""The errors a user can meet: one line saying what is wrong, the value found, what is allowed, what to do."""

import difflib
from collections.abc import Iterable


class QditError(Exception):
    """Base of every error that the CLI prints as one line before exiting with code 2."""


class ConfigError(QditError):
    """A configuration, option or argument is not allowed."""


class CheckpointError(QditError):
    """Weights or a quantized checkpoint cannot be used: missing, corrupt, or of another shape."""


class DataError(QditError):
    """A data file (calibration set, samples, statistics, metrics) cannot be used."""


class Diverged(DataError):
    """The images or clips of a model are not finite."""


class Unsupported(QditError):
    """A method cannot do what was asked of it (bit width, model, mode); tables show the reason."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """'; did you mean …?' for the closest allowed word, or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
