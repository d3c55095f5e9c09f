"""A server that runs `qdit` commands without the wait for imports. It imports torch once and forks for each command.

Importing torch takes seconds, and a workflow of the mini profile starts hundreds of short commands. The server imports
only other packages in advance. So a command always runs the suite's code that is on disk. A command has the working
folder, environment, output streams and exit code of its client. Without a server, the client runs the command itself.

    python qdit/cli/server.py serve SOCKET            until standard input closes, that is, until its starter ends
    python qdit/cli/server.py run SOCKET ARGUMENTS    as `python -m qdit ARGUMENTS`

This file imports nothing of the suite, because the client starts once for every command. The server needs Linux.
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


def serve(address: Path) -> None:
    """Start a child process for each client until standard input closes. Then kill the children that still run."""
    address.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(str(address))
        listener.listen(128)
        for name in PACKAGES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
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
                        accept(listener, selector, children)
                    elif key.fd in children:
                        finish(key.data, selector, children)
        finally:
            for process in set(children.values()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            address.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                address.parent.rmdir()


def accept(listener: socket.socket, selector: selectors.BaseSelector, children: dict[int, int]) -> None:
    """Start a child process for a new client. Watch both, because either can end first."""
    connection, _ = listener.accept()
    head, streams, _, _ = socket.recv_fds(connection, LENGTH.size, 2)
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size and len(streams) == 2 else 0
    with connection.makefile("rb", buffering=0) as source:
        text = received(source, length)
    process = os.fork() if text else None
    if process == 0:
        listener.close()
        become_command(streams, json.loads(text))
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
    """The whole request of a client; nothing if the client ended too early."""
    text = b""
    while len(text) < length:
        block = source.read(length - len(text))
        if not block:
            return b""
        text += block
    return text


def finish(pair: tuple[int, socket.socket], selector: selectors.BaseSelector, children: dict[int, int]) -> None:
    """Tell the client its command's exit code. If the client is gone, kill its command."""
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


def become_command(streams: list[int], request: dict[str, Any]) -> NoReturn:
    """In the child: take over the client's folder, environment and streams, and run the command."""
    code = 1
    try:
        for descriptor, theirs in zip((1, 2), streams, strict=True):
            os.dup2(theirs, descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["qdit", *request["arguments"]]
        sys.path[:0] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
        torch = sys.modules.get("torch")
        if torch is not None and os.environ.get("OMP_NUM_THREADS", "").isdecimal():
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
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
        case ["serve", address]:
            serve(Path(address))
        case ["run", address, *arguments]:
            run(Path(address), arguments)
        case _:
            sys.exit(f"usage: {sys.argv[0]} serve SOCKET | run SOCKET ARGUMENTS")
