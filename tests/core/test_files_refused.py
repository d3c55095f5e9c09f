"""What the system refuses and what a damaged file claims: one line, and nothing is replaced or allocated."""

import os
import zipfile
from pathlib import Path

import pytest
import torch

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import load_arrays, read_json, save_tensors, write_json
from tests.preloaded import python


def test_an_output_never_replaces_a_device_or_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path, kind in ((tmp_path / "pipe", "a device or a pipe"), (tmp_path / "folder", "a folder")):
        with pytest.raises(ConfigError, match=f"{path.name}: is {kind}"):
            write_json(path, {})
    with pytest.raises(ConfigError, match="/dev/null: is a device"):
        save_tensors(Path("/dev/null"), {"a": torch.zeros(2)})
    assert not Path("/dev/null").is_file()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy, torch
from qdit.core.files import save_arrays, save_tensors, write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
writers = {
    "tensors": lambda path: save_tensors(path, {"a": torch.zeros(100_000)}),
    "arrays": lambda path: save_arrays(path, {"a": numpy.zeros(100_000)}),
    "json": lambda path: write_json(path, ["x"] * 100_000),
}
path = Path(sys.argv[2])
try:
    writers[sys.argv[1]](path)
except OSError as problem:
    print(problem.filename, problem.strerror)
"""


@pytest.mark.parametrize("writer", ["tensors", "arrays", "json"])
def test_a_disk_without_room_is_an_oserror_with_the_path_of_the_output(writer: str, tmp_path: Path) -> None:
    """A limit of the size of a file stands for a full disk: the system refuses in the middle of writing."""
    path = tmp_path / "out.bin"
    done = python(["-c", FULL_DISK, writer, str(path)])
    assert done.stdout.strip() == f"{path} File too large"
    assert not list(tmp_path.iterdir())


def test_json_that_is_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(DataError, match=r"deep.json: not valid JSON \(nested too deeply\)"):
        read_json(tmp_path / "deep.json")


def test_an_npz_that_claims_more_than_it_holds_asks_for_no_memory(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64)
    with pytest.raises(DataError, match="claims 8000000000000 bytes"):
        load_arrays(tmp_path / "huge.npz")
