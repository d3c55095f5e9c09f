"""Programs without their start: a process has the packages of a program imported and forks a child for each call.

Most of the CPU time of a small plan is the import of Snakemake, and that of a short command the import of torch. A
child is a process like any other, with its own working folder, environment, streams, exit code and end. Only packages
of others are imported before the fork, so the child reads the sources that its folder and its PYTHONPATH name. Where
the system cannot wait for a process with a time limit, the program itself runs. A test of what a program imports starts
the program itself.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Literal

SERVER = Path(__file__).parents[1] / "qdit" / "cli" / "server.py"
EXECUTABLE = Path(sys.executable).with_name("snakemake")
SNAKEMAKE = ("snakemake.cli", "snakemake_executor_plugin_slurm", "numpy", "pydantic", "safetensors", "yaml")
"""What a plan imports that is not of this repository."""
TORCH = ("torch", "numpy", "safetensors.torch", "pydantic", "typer", "yaml")
"""What a command of qdit imports that is not of this repository."""
SERVED = ("torch", "scipy.linalg", "scipy.stats", "safetensors.torch", "typer", "pydantic.type_adapter", "tqdm", "yaml")
"""What a command server imports that is not of this repository."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""What a command server sets before it imports."""


def snakemake(
    words: Sequence[str],
    folder: Path,
    *,
    server: Literal["own", "shared", "none"] = "own",
    environment: Mapping[str, str] = os.environ,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """What the executable does with these words in `folder`; raises subprocess.TimeoutExpired.

    Its jobs are children of a command server: of its own one, or of one that all runs of the checkout `folder` share.
    With "none" each job starts by itself; that is shortest where no job is a command of qdit.
    """
    sockets = {"own": lambda: "", "shared": lambda: command_server(folder.resolve()), "none": lambda: "/no/server"}
    environment = {**environment, "QDIT_SERVER": sockets[server]()}
    return answer([str(EXECUTABLE), *words], folder, environment, SNAKEMAKE, timeout)


@cache
def command_server(sources: Path) -> str:
    """The socket of a command server for runs of the workflow of a checkout; it ends with this process.

    It is forked where its packages are imported already, and imports the modules of the checkout.
    """
    if not hasattr(os, "pidfd_open"):
        return ""
    folder = Path(tempfile.mkdtemp(prefix="qdit-tests-"))
    address, standard_input = folder / "server" / "socket", folder / "input"
    os.mkfifo(standard_input)
    kept_open = os.open(standard_input, os.O_RDWR)  # the server ends when nobody can write to it any more
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(os.close, kept_open)
    command = [str(SERVER), "serve", str(address), str(sources)]
    streams = [str(folder / name) for name in ("output", "errors")]
    order = {"command": command, "folder": str(sources), "environment": {**os.environ, **ONE_THREAD}}
    process = _ordered(order | {"streams": streams, "input": str(standard_input)}, SERVED)
    assert process is not None
    _wait_until_it_listens(address, process, errors=Path(streams[1]))
    return str(address)


def _wait_until_it_listens(address: Path, process: int, *, errors: Path) -> None:
    """Wait for the socket of a server; fails with the server's message if the server ends, or after two minutes."""
    errors.touch()  # the server may end before it opens its streams
    ended = os.pidfd_open(process)
    try:
        until = time.monotonic() + 120
        while not address.exists():
            has_ended, _, _ = select.select([ended], [], [], 0.01)
            if has_ended or time.monotonic() > until:
                how = "ended" if has_ended else "did not listen in two minutes"
                raise RuntimeError(f"the command server {how}: {errors.read_text(encoding='utf-8')}")
    finally:
        os.close(ended)


def python(
    words: Sequence[str],
    folder: Path | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    packages: tuple[str, ...] = TORCH,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """What `python` does with `-m MODULE …`, `-c PROGRAM …` or `-I FILE …`; raises subprocess.TimeoutExpired."""
    assert words[0] in ("-m", "-c", "-I")
    return answer([sys.executable, *words], folder or Path.cwd(), environment, packages, timeout)


def answer(
    command: list[str], folder: Path, environment: Mapping[str, str], packages: tuple[str, ...], timeout: float
) -> subprocess.CompletedProcess[str]:
    """The outcome of a command, from a child of the process that has these packages."""
    if not hasattr(os, "pidfd_open"):
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryDirectory() as streams:
        paths = [Path(streams, name) for name in ("output", "errors")]
        order = {"command": command, "folder": str(folder), "environment": dict(environment), "timeout": timeout}
        code = _ordered(order | {"streams": list(map(str, paths))}, packages)
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, code, *(path.read_text(encoding="utf-8") for path in paths))


def _ordered(order: dict[str, object], packages: tuple[str, ...]) -> int | None:
    """The exit code of an order, None where its time was over. With an input the order goes on: then its process."""
    orders, answers = _server(packages)
    orders.write(json.dumps(order) + "\n")
    orders.flush()
    number: int | None = json.loads(answers.readline())
    return number


@cache
def _server(packages: tuple[str, ...]) -> tuple[IO[str], IO[str]]:
    """Where a process that forks takes orders and answers with exit codes; it ends with this process."""
    environment = os.environ | (ONE_THREAD if packages == SERVED else {})
    process = subprocess.Popen(
        [sys.executable, __file__, *packages],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=environment,
    )
    assert process.stdin is not None and process.stdout is not None
    atexit.register(process.stdin.close)
    return process.stdin, process.stdout


def serve(packages: Sequence[str]) -> list[str]:
    """Answer orders until there are no more; in each child return its command, which it then is."""
    for package in packages:
        with suppress(ImportError):
            importlib.import_module(package)
    if "snakemake.cli" in sys.modules:
        sys.modules["snakemake.cli"].get_argument_parser()  # finds and imports Snakemake's plugins
    gc.collect()
    gc.freeze()  # collections of a child leave what is imported alone
    for line in sys.stdin:
        order = json.loads(line)
        if (child := os.fork()) == 0:
            return become(order)
        if "input" in order:  # it goes on as long as its input is open
            print(child, flush=True)
            continue
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
    others = [path for path in sys.path[1:] if path not in own_paths()]
    os.environ.clear()
    os.environ.update(order["environment"])
    tempfile.tempdir = None  # TMPDIR is of the order
    sys.path[1:] = [*own_paths(), *others]
    for number, path in enumerate([order.get("input", os.devnull), *order["streams"]]):
        stream = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(stream, number)
        os.close(stream)
    return order["command"]


def own_paths() -> list[str]:
    """Folders of this process's PYTHONPATH."""
    return list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))


def run(command: list[str]) -> None:
    """Be the command: a script, or Python with `-m`, `-c` or `-I`, in a module `__main__` of its own."""
    program, *words = command
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if program == sys.executable and words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif program == sys.executable and words[0] == "-I":
        sys.argv, sys.path[:] = words[1:], [path for path in sys.path[1:] if path not in own_paths()]
        runpy.run_path(words[1], run_name="__main__")
    elif program == sys.executable:
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[0] = command, str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    run(serve(sys.argv[1:]))
