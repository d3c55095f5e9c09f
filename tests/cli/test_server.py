"""Commands behave the same on the command server: output, exit code, folder, environment; they end with it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.preloaded import python

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "qdit" / "cli" / "server.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the command server needs Linux")

WITHOUT_PACKAGES = """
import importlib.util, sys
from pathlib import Path

specification = importlib.util.spec_from_file_location("server", sys.argv[1])
server = importlib.util.module_from_spec(specification)
specification.loader.exec_module(server)
server.PACKAGES, server.SUITE = (), ("qdit.cli.main",)
server.serve(*map(Path, sys.argv[2:]))
"""
"""The server for tests of its sources and of its end: it does not spend seconds on importing torch."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    address = tmp_path_factory.mktemp("server") / "folder" / "socket"
    running = subprocess.Popen([sys.executable, str(SERVER), "serve", str(address)], stdin=subprocess.PIPE)
    wait_until(address.exists)
    yield running, address
    if running.stdin is not None:
        running.stdin.close()
    running.wait(timeout=30)


def started_without_packages(*words: Path) -> subprocess.Popen[bytes]:
    # -B: Python's own caches would not notice an edit of the same length and time. -P: no module of this folder.
    program = [sys.executable, "-B", "-P", "-c", WITHOUT_PACKAGES, str(SERVER), *map(str, words)]
    running = subprocess.Popen(program, stdin=subprocess.PIPE)
    wait_until(words[0].exists)
    return running


def wait_until(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def command(address: Path, *arguments: str, sources: Path = ROOT) -> list[str]:
    assert (sources / "qdit").is_dir()
    return [sys.executable, "-SE", str(SERVER), "run", str(address), *arguments]


def outcome(words: list[str], sources: Path = ROOT, **options) -> tuple[int, str, str]:
    environment = os.environ | {"PYTHONPATH": str(sources)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr


def ordinary(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the ordinary command."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = python(["-m", "qdit", *arguments], folder, environment=environment, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["evaluate", "nothing", "out.json", "--checkpoint", "no"],
        ["no-such-command"],
        ["quantize", "nothing.safetensors", "out", "--method", "rtn", "--bits", "w4a8"],
    ],
)
def test_output_and_exit_code_are_those_of_the_ordinary_command(server, arguments, tmp_path):
    served = outcome(command(server[1], *arguments), cwd=tmp_path)
    assert served == ordinary(tmp_path, *arguments)


@pytest.mark.parametrize("arguments", [["--version"], ["evaluate", "nothing", "out.json", "--checkpoint", "no"]])
def test_without_a_server_the_command_runs_by_itself(arguments, tmp_path):
    alone = outcome(command(Path("/no/such/socket"), *arguments), cwd=tmp_path)
    assert alone == ordinary(tmp_path, *arguments)


def stand_in(folder: Path, body: str) -> Path:
    """Sources whose command line does something else."""
    (folder / "qdit" / "cli").mkdir(parents=True, exist_ok=True)
    (folder / "qdit" / "__init__.py").write_text("")
    (folder / "qdit" / "cli" / "__init__.py").write_text("")
    (folder / "qdit" / "cli" / "main.py").write_text(f"import os, sys, time\ndef main():\n    {body}\n")
    return folder


def test_every_command_runs_the_sources_as_they_are_now(server, tmp_path):
    for word in ("before", "after"):
        sources = stand_in(tmp_path, f"print('{word}', sys.argv[1:], os.getcwd(), 'torch' in sys.modules)")
        result = outcome(command(server[1], "a b", "c", sources=sources), sources, cwd=tmp_path)
        assert result == (0, f"{word} ['a b', 'c'] {tmp_path} True\n", "")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("sys.exit(7)", 7, ""),
        ("sys.exit('gone wrong')", 1, "gone wrong"),
        ("raise RuntimeError('a bug')", 1, "RuntimeError: a bug"),
        ("os.kill(os.getpid(), 9)", 137, ""),
    ],
)
def test_failures_keep_their_exit_code_and_message(server, tmp_path, body, code, words):
    result = outcome(command(server[1]), stand_in(tmp_path, body))
    assert result[0] == code and words in result[2]


def test_threads_are_those_of_the_job(server, tmp_path):
    sources = stand_in(tmp_path, "import torch; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])")
    environment = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(server[1]), env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 1\n"


@pytest.fixture
def server_of_sources(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A server that imported the command line of a stand-in's sources, and these sources."""
    sources, address = stand_in(tmp_path / "sources", "print('as imported')"), tmp_path / "own" / "socket"
    running = started_without_packages(address, sources)
    yield address, sources
    assert running.stdin is not None
    running.stdin.close()
    running.wait(timeout=30)


def test_imported_sources_run_only_while_they_are_unchanged(server_of_sources, tmp_path):
    address, sources = server_of_sources
    main = sources / "qdit" / "cli" / "main.py"
    (sources / "qdit" / "__main__.py").write_text("from qdit.cli.main import main\nmain()\n")
    assert outcome(command(address, sources=sources), sources, cwd=tmp_path)[1] == "as imported\n"
    written = main.stat()
    main.write_text(main.read_text().replace("as imported", "as I edited"))  # of the same length
    os.utime(main, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert outcome(command(address, sources=sources), sources, cwd=tmp_path)[1] == "as I edited\n"


def test_other_sources_run_instead_of_the_imported_ones(server_of_sources, tmp_path):
    other = stand_in(tmp_path / "other", "print('other')")
    (other / "qdit" / "__main__.py").write_text("from qdit.cli.main import main\nmain()\n")
    assert outcome(command(server_of_sources[0], sources=other), other, cwd=tmp_path)[:2] == (0, "other\n")


def test_numpy_has_one_thread_whatever_the_machine_has(server, tmp_path):
    count = "max(pool['num_threads'] for pool in __import__('threadpoolctl').threadpool_info())"
    sources = stand_in(tmp_path, f"import numpy; print({count})")
    environment = {name: text for name, text in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        command(server[1]), env=environment | {"PYTHONPATH": str(sources)}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "1\n"


def test_more_threads_than_one_are_given_to_a_new_interpreter(server, tmp_path):
    body = "import torch; print(torch.get_num_threads(), 'qdit.cli.server' in sys.modules)"
    sources = stand_in(tmp_path, body)
    (sources / "qdit" / "__main__.py").write_text("from qdit.cli.main import main\nmain()\n")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "2"}
    words = command(server[1])
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout == "2 False\n"


def alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def started_child(address: Path, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A client whose command sleeps, and the process of that command."""
    mark = folder / "process"
    body = f"open({str(mark)!r}, 'w').write(str(os.getpid()) + chr(10)); time.sleep(300)"
    environment = os.environ | {"PYTHONPATH": str(stand_in(folder, body))}
    client = subprocess.Popen(command(address), env=environment, stderr=subprocess.PIPE)
    wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"))
    return client, int(mark.read_text())


def test_a_command_ends_with_its_client(server, tmp_path):
    client, process = started_child(server[1], tmp_path)
    assert alive(process)
    client.kill()
    client.wait()
    wait_until(lambda: not alive(process))


def test_everything_ends_with_the_starter_of_the_server(tmp_path):
    address = tmp_path / "own" / "socket"
    running = started_without_packages(address)
    client, process = started_child(address, tmp_path)
    assert running.stdin is not None
    running.stdin.close()
    assert running.wait(timeout=30) == 0
    assert client.wait(timeout=30) == 1
    assert client.stderr is not None and b"run it again" in client.stderr.read()
    wait_until(lambda: not alive(process))
    assert not address.parent.exists()
