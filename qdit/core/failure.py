"""Recorded failures: a step that fails writes the reason, and later steps hand it on instead of stopping the workflow.

What a method cannot do, or fails at, belongs to its row of the table. Everything else (a wrong option, a damaged file,
memory, a device, a kernel library, a killed process) belongs to nobody's row: the job fails and is done again.
"""

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from qdit.core.errors import CheckpointError, Diverged, QditError, Unsupported

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
        details = record.get(KEY) if isinstance(record, Mapping) else None
        return None if details is None else cls(**details)

    @property
    def text(self) -> str:
        """As a table shows it."""
        where = "unsupported" if self.kind == "unsupported" else f"failed in {self.step}"
        return f"{where}: {self.reason}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The failure that a table shows as `text`, also behind "full precision: "; other texts failed somewhere."""
        words = text.removeprefix("full precision: ")
        if match := re.fullmatch(r"failed in (\w+): (.*)", words, re.DOTALL):
            return cls(match[1], "failed", text)
        return cls("", "unsupported" if words.startswith("unsupported: ") else "failed", text)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        return {KEY: asdict(self)}


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
    r"can't allocate memory|out of memory|CUDA error|CUDA driver|HIP error|no kernel image|device-side assert"
    r"|same device|\b(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT|NCCL|HIPBLAS|MIOPEN)_STATUS_?|\bcu(BLAS|DNN|SOLVER)\b.*error"
    r"|unable to find an engine|No CUDA GPUs|Torch not compiled with CUDA|NVML",
    re.IGNORECASE,
)
"""What torch says in a plain RuntimeError when memory, a device or one of its libraries fails."""

BY_METHOD = "_qdit_by_method"
"""Attribute of an exception that a method's own code let out."""


@contextmanager
def method_code() -> Iterator[None]:
    """A method's own code runs here: an exception that leaves it is marked as the method's."""
    try:
        yield
    except Exception as problem:
        setattr(problem, BY_METHOD, True)
        raise


def is_by_method(problem: BaseException) -> bool:
    """Whether an exception left a method's own code (`method_code`)."""
    return bool(getattr(problem, BY_METHOD, False))


def is_result(problem: BaseException) -> bool:
    """Whether an exception is the result of a method, and so of its row.

    It is where the method says that it cannot (`Unsupported`), where the images are not finite (`Diverged`), and
    where its own code failed at something other than the machine, a file or the installation. All else is not.
    """
    if not isinstance(problem, Exception) or is_of_the_machine(problem):
        return False
    return isinstance(problem, Unsupported | Diverged) or is_by_method(problem)


@contextmanager
def recording(step: str, write: Callable[[Failure], object], *, enabled: bool) -> Iterator[None]:
    """What is a method's result (`is_result`) becomes a written record; the traceback and one line go to stderr.

    Everything else is raised as ever, and so is everything if not `enabled`.
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
    """One line on stderr."""
    sys.stderr.write(f"qdit: recorded: {text}\n")


def is_of_the_machine(problem: BaseException) -> bool:
    """Memory, devices, files, processes, kernel libraries, packages, also as the cause: another attempt may succeed."""
    if isinstance(problem, MemoryError | OSError | EOFError | ImportError | CheckpointError):
        return True
    if any(base.__name__ in MACHINE_TYPES for base in type(problem).__mro__):
        return True
    if not isinstance(problem, QditError) and MACHINE_WORDS.search(str(problem)):
        return True
    return problem.__cause__ is not None and is_of_the_machine(problem.__cause__)
