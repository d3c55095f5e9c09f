"""A server that runs `qdit` commands without the wait for imports. It imports torch once and forks for each command.

Importing torch takes seconds and the suite's modules a quarter of a second. A workflow of the mini profile starts
hundreds of short commands. The server imports the packages and, if it is given the folder of the suite's sources, the
modules of the steps. A command always runs the code that is on disk: if a source file of an imported module has changed
since, or if the client has other sources or wants more than one thread, the command runs in a new interpreter. A
command has the working folder, environment, output streams and exit code of its client. Without a server, the client
runs the command itself.

    python qdit/cli/server.py serve SOCKET [SOURCES]  until standard input closes, that is, until its starter ends
    python qdit/cli/server.py run SOCKET ARGUMENTS    as `python -m qdit ARGUMENTS`

This file imports nothing of the suite at the top, because the client starts once for every command. The server needs
Linux.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from io import RawIOBase
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = (
    "torch",
    "scipy.linalg",
    "scipy.stats",
    "safetensors.torch",
    "typer",
    "pydantic.type_adapter",
    "tqdm",
    "yaml",
)
SUITE = (
    "qdit.cli.main",
    "qdit.methods.registry",
    "qdit.metrics.extraction",
    "qdit.metrics.run",
    "qdit.metrics.spoken",
    "qdit.quant.apply",
    "qdit.quant.reconstruction",
    "qdit.sampling.calibration",
    "qdit.sampling.run",
    "qdit.search.run",
)
"""Modules of the steps that occur hundreds of times. The file of a method is not among them."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Numpy and torch read these when they are imported. A command that shares the cores with others has one thread."""
LENGTH = struct.Struct("!I")
EXIT_CODE = struct.Struct("!i")


def run(address: Path, arguments: list[str]) -> NoReturn:
    """Let the server run `qdit` with these arguments; without a server, run it in this process."""
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(address))
        request = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        text = json.dumps(request).encode()
        socket.send_fds(connection, [LENGTH.pack(len(text))], [1, 2])
        connection.sendall(text)
    except OSError:
        os.execv(sys.executable, [sys.executable, "-m", "qdit", *arguments])
    answer = connection.recv(EXIT_CODE.size)
    if len(answer) < EXIT_CODE.size:
        sys.exit("qdit: error: the command server stopped while this command ran; run it again")
    sys.exit(EXIT_CODE.unpack(answer)[0])


def state_of(path: str) -> tuple[int, ...]:
    """Numbers that change if a file is edited or replaced (inode, size and times); empty if there is no file."""
    try:
        facts = Path(path).stat()
    except OSError:
        return ()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


class Loaded:
    """The modules that the server has imported: packages, and the suite's modules if it has their sources."""

    def __init__(self, sources: Path | None) -> None:
        self.sources, self.states = sources, dict[str, tuple[int, ...]]()
        os.environ.update(dict.fromkeys(THREADS, "1"))
        for name in PACKAGES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        if sources is None:
            return
        states = {str(path): state_of(str(path)) for path in (sources / "qdit").rglob("*.py")}
        sys.path.insert(0, str(sources))
        for name in SUITE:
            with contextlib.suppress(Exception):  # a file that is broken now may be whole when a command needs it
                importlib.import_module(name)
        with contextlib.suppress(Exception):  # the command line, and what each source imports: all commands need both
            importlib.import_module("qdit.cli.main").whole_command()
            importlib.import_module("qdit.core.digest").code_digest(*SUITE)
        files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
        self.states = {path: state for path, state in states.items() if path in files}

    def serves(self, environment: dict[str, str]) -> bool:
        """Whether the server may run a command with this environment: its imported modules must be the right ones."""
        if any(environment.get(name, "1") != "1" for name in THREADS):
            return False
        folder = environment.get("PYTHONPATH", "").partition(os.pathsep)[0]
        same_sources = self.sources is None or Path(folder) == self.sources
        return same_sources and all(state_of(path) == state for path, state in self.states.items())


def serve(address: Path, sources: Path | None = None) -> None:
    """Start a child process for each client until standard input closes. Then kill the children that still run."""
    address.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(str(address))
        listener.listen(128)
        loaded = Loaded(sources)
        # A child's garbage collections leave what is imported alone: shorter, and its pages stay shared.
        gc.collect()
        gc.freeze()
        children: dict[int, int] = {}  # file descriptor of a child's end or of its client → process
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        selector.register(listener, selectors.EVENT_READ, None)
        try:
            while True:
                for key, _ in selector.select():
                    if key.fileobj is sys.stdin:
                        return
                    if key.fileobj is listener:
                        accept(listener, selector, children, loaded)
                    elif key.fd in children:
                        finish(key.data, selector, children)
        finally:
            for process in set(children.values()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            address.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                address.parent.rmdir()


def accept(listener: socket.socket, selector: selectors.BaseSelector, children: dict[int, int], loaded: Loaded) -> None:
    """Start a child process for a new client. Then watch the child and the client, because either can end first."""
    connection, _ = listener.accept()
    head, streams, _, _ = socket.recv_fds(connection, LENGTH.size, 2)
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size and len(streams) == 2 else 0
    with connection.makefile("rb", buffering=0) as source:
        text = received(source, length)
    process = os.fork() if text else None
    if process == 0:
        listener.close()
        become_command(streams, json.loads(text), loaded)
    for stream in streams:
        os.close(stream)
    if process is None:
        connection.close()
        return
    ended = os.pidfd_open(process)
    children[ended] = children[connection.fileno()] = process
    selector.register(ended, selectors.EVENT_READ, (ended, connection))
    selector.register(connection, selectors.EVENT_READ, (ended, connection))


def received(source: RawIOBase, length: int) -> bytes:
    """Read the whole request of a client; the result is empty if the client ended too early."""
    text = b""
    while len(text) < length:
        block = source.read(length - len(text))
        if not block:
            return b""
        text += block
    return text


def finish(pair: tuple[int, socket.socket], selector: selectors.BaseSelector, children: dict[int, int]) -> None:
    """Tell the client the exit code of its command. If the client is gone, kill the command."""
    ended, connection = pair
    process = children[ended]
    with contextlib.suppress(ProcessLookupError):
        if os.waitid(os.P_PIDFD, ended, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(EXIT_CODE.pack(code if code >= 0 else 128 - code))
    for source in (ended, connection):
        selector.unregister(source)
    del children[ended], children[connection.fileno()]
    os.close(ended)
    connection.close()


def become_command(streams: list[int], request: dict[str, Any], loaded: Loaded) -> NoReturn:
    """Run a client's command in the child process, with the client's folder, environment and output streams."""
    code = 1
    try:
        for descriptor, theirs in zip((1, 2), streams, strict=True):
            os.dup2(theirs, descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        if not loaded.serves(request["environment"]):
            os.execv(sys.executable, [sys.executable, "-m", "qdit", *request["arguments"]])
        sys.argv = ["qdit", *request["arguments"]]
        sys.path[:0] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
        importlib.import_module("qdit.cli.main").main()
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    # As a script's folder, qdit/cli/ would come first, and its modules before others of the same names.
    sys.path[:] = [part for part in sys.path if Path(part).resolve() != Path(__file__).resolve().parent]
    match sys.argv[1:]:
        case ["serve", address, *sources] if len(sources) < 2:
            serve(Path(address), *map(Path, sources))
        case ["run", address, *arguments]:
            run(Path(address), arguments)
        case _:
            sys.exit(f"usage: {sys.argv[0]} serve SOCKET [SOURCES] | run SOCKET ARGUMENTS")
