"""Locks on GPUs (*leases*), so that two jobs of one machine never compute on the same GPU.

A job locks one file per GPU with `flock`, in a folder of the user. The system releases the lock when the process and
its children end, for any reason. Snakemake counts GPUs, but does not tell a job which GPU to use. The locks are our own
code, not the package `filelock`, for two reasons. The Python of VBench's environment imports this module and has only
the standard library. And the workers of a killed search must keep the lock of their parent, which `filelock` refuses.
"""

import fcntl
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qdit.core.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 0.5
"""Seconds between two looks for a free GPU."""


def check_device(device: str) -> tuple[str, int | None]:
    """Split a device name into its kind (`cpu` or `cuda`) and its number (or None). ConfigError for any other name."""
    kind, separator, number = device.partition(":")
    if device in ("cpu", "cuda"):
        return kind, None
    if kind == "cuda" and separator and number.isascii() and number.isdecimal():
        return kind, int(number)
    raise ConfigError(f"device {device!r}: allowed are cpu, cuda (a free GPU) and cuda:N (the GPU of that number)")


def visible_gpus(count: int, listed: str | None) -> list[str]:
    """Names for the lock files of the GPUs that CUDA numbers 0 … count − 1. `listed` is CUDA_VISIBLE_DEVICES.

    Two jobs with different lists get the same name for the same GPU.
    """
    entries = [str(index) for index in range(count)] if listed is None else [e.strip() for e in listed.split(",")]
    return entries[:count]


def name_of(device: str) -> str | None:
    """CUDA_VISIBLE_DEVICES for a child process that may see only the GPU `device`. None for `cpu` and plain `cuda`."""
    kind, number = check_device(device)
    if kind == "cpu" or number is None:
        return None
    return visible_gpus(number + 1, os.environ.get(VISIBLE))[number]


def lock_folder() -> Path:
    """The folder of the lock files. Only this user can open it.

    Each Slurm allocation has its own folder: Slurm has divided the GPUs already, and may number each of them 0. Raises
    ConfigError if somebody else owns a folder of this name.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    name = f"qdit-gpus-{os.getuid()}" + (f"-{job}" if job.isalnum() else "")
    folder = Path(tempfile.gettempdir(), name)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(f"{folder}: must be a folder that only you can open; remove it, or set another TMPDIR")
    return folder


@contextmanager
def leased(
    device: str, *, count: Callable[[], int], folder: Path | None = None, say: Callable[[str], object] | None = None
) -> Iterator[str]:
    """Context manager that reserves a GPU for this process and returns `cpu` or `cuda:N`, for torch.

    `cuda` takes the first free GPU, `cuda:N` takes that GPU. If none is free, the function prints one line with `say`
    (default stderr) and waits. `count` returns the number of GPUs that CUDA shows here. Raises ConfigError for a wrong
    name and for a GPU that does not exist.
    """
    kind, number = check_device(device)
    if kind == "cpu":
        yield kind
        return
    names = visible_gpus(count(), os.environ.get(VISIBLE))
    if not names or (number is not None and number >= len(names)):
        shown = f"; {VISIBLE} is {os.environ[VISIBLE]!r}" if VISIBLE in os.environ else ""
        there = f"there are {len(names)} GPUs here, numbered from 0" if names else "there is no GPU here"
        raise ConfigError(
            f"device {device}: {there}{shown}; run where there is one, or take the CPU (--device cpu; in a profile"
            " compute.device)"
        )
    candidates = [(index, name) for index, name in enumerate(names) if number in (None, index)]
    descriptor, index = _take(candidates, lock_folder() if folder is None else folder, say or _to_stderr)
    try:
        yield f"cuda:{index}"
    finally:
        os.close(descriptor)


def _take(candidates: Sequence[tuple[int, str]], folder: Path, say: Callable[[str], object]) -> tuple[int, int]:
    """Descriptor of the lock and index of the first GPU that becomes free."""
    waiting = False
    while True:
        for index, name in candidates:
            descriptor = _try(folder / f"{name.replace('/', '_')}.lock")
            if descriptor is not None:
                return descriptor, index
        if not waiting:
            owners = ", ".join(f"GPU {name} by process {_owner(folder, name)}" for _, name in candidates)
            say(f"qdit: waiting for a free GPU: in use are {owners}")
            waiting = True
        time.sleep(POLL)


def _try(path: Path) -> int | None:
    """An open descriptor that holds the lock of a file, with this process's number in the file; None if it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _owner(folder: Path, name: str) -> str:
    """Number of the process that wrote itself into a lock."""
    return (folder / f"{name.replace('/', '_')}.lock").read_text(encoding="utf-8") or "unknown"


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
