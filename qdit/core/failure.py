"""Recorded failures. A step that fails writes the reason to a file; later steps copy it, so the workflow continues.

A failure of the method itself belongs to its row of the table. All other failures (a wrong option, a damaged file,
memory, a device, a kernel library, a killed process) belong to no row. Then the job fails and is repeated.
"""

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from qdit.core.errors import CheckpointError, Diverged, QditError, Unsupported
from qdit.core.files import sha256_json

KEY = "failure"
"""Where a JSON file holds its failure."""
DIGEST = "sha256"
"""Where a failure in a JSON file holds the digest of its other fields."""
KINDS = ("unsupported", "failed")


@dataclass(frozen=True)
class Failure:
    """The record of a failed step: its name (quantize or sample), failed or unsupported, and the reason in one line."""

    step: str
    kind: Literal["unsupported", "failed"]
    reason: str

    @classmethod
    def of(cls, step: str, problem: Exception) -> Self:
        """The record of an exception that a step raised."""
        words = str(problem) if isinstance(problem, QditError) else f"{type(problem).__name__}: {problem}"
        reason = " ".join(words.split())
        return cls(step, "unsupported" if isinstance(problem, Unsupported) else "failed", reason)

    @classmethod
    def within(cls, record: Any) -> Self | None:
        """Read the failure that a JSON object holds; None if it holds none.

        TypeError if it is incomplete, if a field has another type, or if its digest is not that of its fields: then it
        was written by hand or edited.
        """
        details = record.get(KEY) if isinstance(record, Mapping) else None
        if details is None:
            return None
        fields = {name: value for name, value in dict(details).items() if name != DIGEST}
        failure = cls(**fields)
        if not all(isinstance(value, str) for value in fields.values()) or failure.kind not in KINDS:
            raise TypeError(f"a failure has a step, a reason and a kind of {', '.join(KINDS)}")
        if failure.to_dict() != {KEY: details}:
            raise TypeError("the failure was edited or has no digest")
        return failure

    @property
    def text(self) -> str:
        """The text about this failure that a table shows."""
        where = "unsupported" if self.kind == "unsupported" else f"failed in {self.step}"
        return f"{where}: {self.reason}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a failure from the text of a table cell, also after "full precision: ".

        If the text does not name the step, the step of the result is empty.
        """
        words = text.removeprefix("full precision: ")
        if match := re.fullmatch(r"failed in (\w+): (.*)", words, re.DOTALL):
            return cls(match[1], "failed", text)
        return cls("", "unsupported" if words.startswith("unsupported: ") else "failed", text)

    def to_dict(self) -> dict[str, Any]:
        """The failure as a dictionary for JSON, with a digest of its fields."""
        return {KEY: asdict(self) | {DIGEST: sha256_json(asdict(self))}}


MACHINE_TYPES = {
    "AcceleratorError",  # torch: the device or its driver
    "BadZipFile",
    "BuildError",  # qdit.kernels.building
    "CompilationError",  # triton
    "DeferredCudaCallError",
    "OutOfMemoryError",  # torch
    "OutOfResources",  # triton
    "SafetensorError",
    "SubprocessError",
}
"""Names of exceptions, or of their bases, that no method is to blame for; by name: no torch here."""

MACHINE_WORDS = re.compile(
    r"can't allocate memory|out of memory|cuda|cublas|cudnn|cusolver|cusparse|cufft|nvrtc|\bnccl|\bnvml|nvidia|triton"
    r"|\bhip\b|hipblas|miopen|no kernel image|device-side assert|unable to find an engine|\bGPU\b"
    r"|same device|same dtype, device|device type|desired device|on the device",
    re.IGNORECASE,
)
"""Words in torch's exceptions that mean: memory, a device or one of its libraries failed, not the method.

The name of a GPU library is enough. A job that fails is repeated; a failure that is wrongly blamed on the method would
stay in its table.
"""

BY_METHOD = "_qdit_by_method"
"""Attribute of an exception that a method's own code let out."""


@contextmanager
def method_code() -> Iterator[None]:
    """Context manager around a method's own code. It marks exceptions that leave this code (`is_by_method`)."""
    try:
        yield
    except Exception as problem:
        setattr(problem, BY_METHOD, True)
        raise


def is_by_method(problem: BaseException) -> bool:
    """Whether an exception came out of a method's own code (it left a `method_code` context)."""
    return bool(getattr(problem, BY_METHOD, False))


def is_result(problem: BaseException) -> bool:
    """Whether an exception is a result of the method, and so belongs to its row.

    There are three cases: the method says that it cannot (`Unsupported`), the images are not finite (`Diverged`), or
    the method's own code failed for a reason other than the machine, a file or the installation.
    """
    if not isinstance(problem, Exception) or is_of_the_machine(problem):
        return False
    return isinstance(problem, Unsupported | Diverged) or is_by_method(problem)


@contextmanager
def recording(step: str, write: Callable[[Failure], object], *, enabled: bool) -> Iterator[None]:
    """Context manager that records a failure of the method (`is_result`) with `write`, instead of raising it.

    The traceback and one line go to stderr. Every other exception is raised. If not `enabled`, all exceptions are
    raised.
    """
    try:
        yield
    except Exception as problem:
        if not enabled or not is_result(problem):
            raise
        traceback.print_exc()
        failure = Failure.of(step, problem)
        write(failure)
        say(failure.text)


def say(text: str) -> None:
    """Print one line about a recorded failure on stderr."""
    sys.stderr.write(f"qdit: recorded: {text}\n")


def is_of_the_machine(problem: BaseException) -> bool:
    """Whether the machine caused an exception (directly or as the cause of it), so that a second attempt may succeed.

    Such exceptions are about memory, devices, files, processes, kernel libraries or packages.
    """
    if isinstance(problem, MemoryError | OSError | EOFError | ImportError | CheckpointError):
        return True
    if any(base.__name__ in MACHINE_TYPES for base in type(problem).__mro__):
        return True
    if not isinstance(problem, QditError) and MACHINE_WORDS.search(str(problem)):
        return True
    return problem.__cause__ is not None and is_of_the_machine(problem.__cause__)
