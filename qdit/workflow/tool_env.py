"""Make the environment of the tools: a virtual environment with locked, hashed packages (`qdit tools install`).

torchao, optimum-quanto and SDNQ are not installed in the environment of the suite. So that environment stays small, and
the suite never imports SDNQ (GPL-3.0). The command downloads 3 GB from PyPI (its torch has CUDA). After `make install`
most of it is in uv's cache.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.files import read_json, sha256_file, write_json
from qdit.core.repository import ROOT
from qdit.sampling.tools.process import started
from qdit.sampling.tools.registry import KnownTool, tools
from qdit.workflow.vbench_env import call, installer, python_of

LOCK = ROOT / "rules" / "envs" / "tools-lock.txt"
"""Made with: uv pip compile --generate-hashes -c requirements.lock rules/envs/tools.in"""
MARK = "qdit-tools.json"
PYTHON = (3, 11)
"""The version that the lock was resolved for."""
NEEDED_GB = 8


def is_installed(folder: Path) -> bool:
    """Return whether this folder holds a complete installation of the present lock file."""
    mark = folder / MARK
    return mark.is_file() and read_json(mark).get("lock_sha256") == sha256_file(LOCK)


def install(folder: Path) -> bool:
    """Make the environment and prepare each tool in it. Return False if it was complete already.

    A folder with other contents is refused. The rest of a stopped installation is replaced. Raises ConfigError before
    the installation, and DataError if the installer fails. If a tool cannot be prepared, the reason is stored, and the
    rows of the tool show it.
    """
    if is_installed(folder):
        return False
    if sys.version_info[:2] != PYTHON:
        raise ConfigError(
            f"Python {sys.version_info[0]}.{sys.version_info[1]}: the lock of the tools is for Python"
            f" {PYTHON[0]}.{PYTHON[1]}; make an environment with the packages of {LOCK} by hand, and name its python"
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise ConfigError(f"{folder}: holds something that is not a Python environment; name a new folder")
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    if (free := shutil.disk_usage(existing).free / 1e9) < NEEDED_GB:
        raise ConfigError(f"{existing}: {free:.1f} GB are free, the tools need {NEEDED_GB}; make room first")
    (folder / MARK).unlink(missing_ok=True)
    for command in installer(folder, LOCK, "--require-hashes"):
        call(command)
    prepared = {name: prepare(known, python_of(folder)) for name, known in tools().items()}
    write_json(
        folder / MARK,
        {"lock_sha256": sha256_file(LOCK), "python": sys.version.split()[0], "tools": prepared},
    )
    return True


def prepare(known: KnownTool, python: Path) -> dict[str, Any]:
    """Run a tool's `prepare`. Return its versions, or the reason why it cannot be used."""
    from qdit.core.errors import QditError

    try:
        with started(known, python, {"prepare": True}) as pipe:
            facts, _ = pipe.receive()
    except QditError as problem:
        return {"why": str(problem)}
    return dict(facts["versions"])


def listing() -> str:
    """Write about every tool: name, package, licence, and what it does at which bits."""
    lines = []
    for name, known in tools().items():
        tool = known.tool
        lines.append(f"{name}: {tool.printed}, {tool.licence}, {tool.address}")
        lines += [f"  {bits}: {does}" for bits, does in tool.bits.items()]
        lines += [f"  {bits}: cannot, {reason}" for bits, reason in tool.cannot.items()]
    return "\n".join(lines)


def installed_text(folder: Path) -> str:
    """Write the tools of an environment with their versions."""
    return json.dumps(read_json(folder / MARK)["tools"], sort_keys=True)
