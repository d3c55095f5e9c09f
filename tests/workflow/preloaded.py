"""Snakemake's command line without its start: a process has it imported and forks a child for each command.

Most of the CPU time of a small plan is the import of Snakemake. A child is a process like any other, with its own
working folder, environment, streams, exit code and end. Only packages of others are imported before the fork, so the
child reads the sources of the checkout in which it runs. Where the system cannot wait for a process with a time limit,
the executable itself runs.
"""

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

EXECUTABLE = Path(sys.executable).with_name("snakemake")
PACKAGES = ("snakemake.cli", "snakemake_executor_plugin_slurm", "numpy", "pydantic", "safetensors", "yaml")
"""What a plan imports that is not of this repository."""


def snakemake(words: Sequence[str], folder: Path, *, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """What the executable does with these words in `folder`; raises subprocess.TimeoutExpired."""
    command = [str(EXECUTABLE), *words]
    if not hasattr(os, "pidfd_open"):
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryDirectory() as streams:
        paths = [Path(streams, name) for name in ("output", "errors")]
        order = {"command": command, "folder": str(folder), "environment": dict(os.environ), "timeout": timeout}
        orders, answers = _server()
        orders.write(json.dumps(order | {"streams": list(map(str, paths))}) + "\n")
        orders.flush()
        code = json.loads(answers.readline())
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, code, *(path.read_text(encoding="utf-8") for path in paths))


@cache
def _server() -> tuple[IO[str], IO[str]]:
    """Where a process that forks takes orders and answers with exit codes; it ends with this process."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None and process.stdout is not None
    atexit.register(process.stdin.close)
    return process.stdin, process.stdout


def serve() -> list[str]:
    """Answer orders until there are no more; in each child return its command, which it then is."""
    for package in PACKAGES:
        with suppress(ImportError):
            importlib.import_module(package)
    for line in sys.stdin:
        order = json.loads(line)
        if (child := os.fork()) == 0:
            return become(order)
        ended = os.pidfd_open(child)
        in_time, _, _ = select.select([ended], [], [], order["timeout"])
        os.close(ended)
        if not in_time:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(code if in_time else None), flush=True)
    sys.exit(0)


def become(order: dict[str, object]) -> list[str]:
    """Give this process the folder, the environment and the streams of an order; returns its command."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for number, path in enumerate([os.devnull, *order["streams"]]):
        stream = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(stream, number)
        os.close(stream)
    return order["command"]


if __name__ == "__main__":
    sys.argv = serve()
    sys.path[0] = str(Path(sys.argv[0]).parent)
    from snakemake.cli import main

    sys.exit(main())
