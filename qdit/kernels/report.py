"""Text report of the kernel backends: which one this machine uses, and why the others do not run."""

import platform

import torch

from qdit.core.errors import ConfigError
from qdit.kernels import backend, library
from qdit.kernels.building import SHIPPED

OTHER_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}


def report() -> dict[str, str]:
    """Return lines by name: `kernels` (backend in use), `kernel library` (file), `kernels not used` (with reasons).

    Builds the library if there is none. If QDIT_KERNELS names a backend that cannot run, this is a line of the report,
    not an error.
    """
    loaded, names = library.loaded(), library.available()
    lines = {"kernels": _in_use(names), "kernel library": _file(loaded)}
    absent = [f"{name}: {reason}" for name, reason in _absent(names, loaded)]
    return {**lines, "kernels not used": "; ".join(absent)} if absent else lines


def _in_use(names: tuple[str, ...]) -> str:
    try:
        backend_name = library.backend_name()
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        on_gpus = "".join(f", {library.backend_name(gpu)} on {gpu}" for gpu in gpus)
        forced = f", as {backend.FORCE} says" if backend.forced() else f" ({backend.FORCE} forces another)"
    except ConfigError as problem:
        return str(problem)
    return f"{backend_name} on the CPU{on_gpus}; here run {', '.join(names)}{forced}"


def _file(loaded: library.Loaded | str) -> str:
    if isinstance(loaded, str):
        return f"none: {loaded}"
    origin = "at install" if loaded.built.path.parent == SHIPPED else "on this computer"
    return f"{loaded.built.path}, built {origin} by {loaded.built.compiler}; agrees with the reference"


def _absent(names: tuple[str, ...], loaded: library.Loaded | str) -> list[tuple[str, str]]:
    """(name, why it does not run here)."""
    machine = OTHER_NAMES.get(platform.machine().lower(), platform.machine())
    absent = []
    for name in backend.FORCEABLE:
        if name == "triton":
            reason = _why_no_triton()
            if reason is not None:
                absent.append((name, reason))
        elif name not in names:
            needed, feature = library.NEEDS.get(name, (machine, ""))
            if needed != machine:
                absent.append((name, f"is for {needed}"))
            else:
                absent.append((name, "no library" if isinstance(loaded, str) else f"this processor has not {feature}"))
    return absent


def _why_no_triton() -> str | None:
    from qdit.kernels.triton_backend import refusal

    return refusal(f"cuda:{torch.cuda.current_device()}") if torch.cuda.is_available() else "there is no CUDA device"
