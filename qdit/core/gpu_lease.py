"""Leases of GPUs: two jobs of one machine never compute on the same GPU.

A job locks one file per GPU with `flock`, in a folder of the user's own. The system releases the lock when the process
and its children end, however they end. Snakemake counts GPUs, but tells no job which one is its own. The locks are ours
and not those of `filelock`: the Python of VBench's environment, which imports this module, has the standard library
only, and forked workers of a search keep the lease of a parent that was killed, which `filelock` refuses.
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
    """(`cpu` or `cuda`, number or None) of a device's name; ConfigError for another name."""
    kind, separator, number = device.partition(":")
    if device in ("cpu", "cuda"):
        return kind, None
    if kind == "cuda" and separator and number.isascii() and number.isdecimal():
        return kind, int(number)
    raise ConfigError(f"device {device!r}: allowed are cpu, cuda (a free GPU) and cuda:N (the GPU of that number)")


def visible_gpus(count: int, listed: str | None) -> list[str]:
    """Name of the lock of each GPU that CUDA numbers 0 … count − 1; `listed` is CUDA_VISIBLE_DEVICES.

    Two jobs that are given different lists find the same name for the same GPU.
    """
    entries = [str(index) for index in range(count)] if listed is None else [e.strip() for e in listed.split(",")]
    return entries[:count]


def name_of(device: str) -> str | None:
    """What CUDA_VISIBLE_DEVICES must be for another process to see this GPU of ours alone; None of `cpu`."""
    kind, number = check_device(device)
    if kind == "cpu" or number is None:
        return None
    return visible_gpus(number + 1, os.environ.get(VISIBLE))[number]


def lock_folder() -> Path:
    """Folder of the locks, which only this user can open; ConfigError if somebody else made one of that name.

    Each Slurm allocation has its own: the scheduler has shared the GPUs out, and may call all of them 0.
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
    """Inside this context a GPU belongs to this process; gives `cpu` or `cuda:N`, for torch.

    `cuda` takes the first free GPU, `cuda:N` that one; where none is free this waits, after one line to `say` (by
    default stderr). `count` gives the number of GPUs that CUDA shows here. Raises ConfigError for a name that is none,
    and where there is no such GPU.
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
    chosen = [(index, name) for index, name in enumerate(names) if number in (None, index)]
    descriptor, index = _take(chosen, lock_folder() if folder is None else folder, say or _to_stderr)
    try:
        yield f"cuda:{index}"
    finally:
        os.close(descriptor)


def _take(chosen: Sequence[tuple[int, str]], folder: Path, say: Callable[[str], object]) -> tuple[int, int]:
    """Descriptor of the lock and index of the first GPU that becomes free."""
    waiting = False
    while True:
        for index, name in chosen:
            descriptor = _try(folder / f"{name.replace('/', '_')}.lock")
            if descriptor is not None:
                return descriptor, index
        if not waiting:
            owners = ", ".join(f"GPU {name} by process {_owner(folder, name)}" for _, name in chosen)
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
