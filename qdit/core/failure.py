"""A failure on record: why a run has no images, handed on from step to step, so that no method stops the others.

What a method cannot do, or fails at, belongs to its row of the table. What the machine fails at (memory, files, a
killed process) belongs to nobody's row: the job fails and is done again.
"""

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from qdit.core.errors import QditError, Unsupported

KEY = "failure"
"""Where a JSON file holds its failure."""


@dataclass(frozen=True)
class Failure:
    """The step that failed (quantize or sample), whether the method says so itself, and why, in one line."""

    step: str
    kind: Literal["unsupported", "failed"]
    reason: str

    @classmethod
    def of(cls, step: str, problem: Exception) -> Self:
        """What an exception in a step says."""
        words = str(problem) if isinstance(problem, QditError) else f"{type(problem).__name__}: {problem}"
        reason = " ".join(words.split())
        return cls(step, "unsupported" if isinstance(problem, Unsupported) else "failed", reason)

    @classmethod
    def within(cls, record: Any) -> Self | None:
        """The failure that a JSON value holds, if any; TypeError if it is not whole."""
        found = record.get(KEY) if isinstance(record, Mapping) else None
        return None if found is None else cls(**found)

    @property
    def text(self) -> str:
        """As a table shows it."""
        where = "unsupported" if self.kind == "unsupported" else f"failed in {self.step}"
        return f"{where}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        return {KEY: asdict(self)}


@contextmanager
def recording(
    step: str, write: Callable[[Failure], object], *, recordable: Callable[[Exception], bool]
) -> Iterator[None]:
    """Exceptions of a method become a written record; the traceback and one line go to stderr.

    Raised as ever: exceptions that are not `recordable`, those of the machine, and whatever is no Exception.
    """
    try:
        yield
    except Exception as problem:
        if is_of_the_machine(problem) or not recordable(problem):
            raise
        traceback.print_exc()
        failure = Failure.of(step, problem)
        write(failure)
        say(failure.text)


def say(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"qdit: recorded: {text}\n")


def is_of_the_machine(problem: Exception) -> bool:
    """Memory (torch has two errors of its own for it), files and the system: another attempt may succeed."""
    exhausted = type(problem).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(problem)
    return exhausted or isinstance(problem, MemoryError | OSError)


def raised_in(problem: BaseException, module: str) -> bool:
    """Whether an exception came out of a function of this module, directly or from what it called."""
    frames = traceback.walk_tb(problem.__traceback__)
    return any(frame.f_globals.get("__name__") == module for frame, _ in frames)
