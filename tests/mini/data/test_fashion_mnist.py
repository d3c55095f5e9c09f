"""Fashion-MNIST: files of the right form and digest are read and copied; everything else is refused in one line."""

import gzip
import hashlib
import io
import lzma
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from qdit.core.errors import DataError
from qdit.mini.data import fashion_mnist
from qdit.mini.data.data_sets import data_set
from qdit.mini.data.fashion_mnist import FILES, copy_files, find_folder, load

COUNTS = {"train": 6, "t10k": 4}
IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def idx(array: np.ndarray, magic: int) -> bytes:
    """An IDX file, packed."""
    return gzip.compress(np.array([magic, *array.shape], ">u4").tobytes() + array.astype(np.uint8).tobytes(), mtime=0)


def arrays(stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a small part."""
    draw = np.random.default_rng(COUNTS[stem])
    return draw.integers(0, 256, (COUNTS[stem], 28, 28)), np.arange(COUNTS[stem])


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the four files."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The four files with ten images."""
    path = tmp_path / "files"
    path.mkdir()
    for stem in COUNTS:
        images, labels = arrays(stem)
        (path / f"{stem}-images-idx3-ubyte.gz").write_bytes(idx(images, 2051))
        (path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(idx(labels, 2049))
    return path


def package(folder: Path, path: Path, *, names: tuple[str, ...] = tuple(FILES)) -> Path:
    """A Debian package with files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in names:
            tar.add(folder / name, f"./usr/share/datasets/fashion-mnist/{name}")
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(archive.getvalue())}
    content = b"!<arch>\n"
    for name, data in members.items():
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(content)
    return path


def test_images_and_labels_come_in_file_order_from_minus_one_to_one(folder: Path) -> None:
    digests = digests_of(folder)
    for split, stems in (("train", ["train"]), ("held_out", ["t10k"]), ("all", ["train", "t10k"])):
        found = load(split, folder, digests=digests)
        assert torch.equal(
            ((found.images[:, 0] + 1) * 127.5).round(),
            torch.from_numpy(np.concatenate([arrays(stem)[0] for stem in stems])).float(),
        )
        assert found.labels.tolist() == [label for stem in stems for label in range(COUNTS[stem])]
    assert found.images.dtype == torch.float32
    assert found.images.shape == (10, 1, 28, 28)


def test_the_files_of_a_folder_and_of_a_package_are_copied(folder: Path, tmp_path: Path) -> None:
    digests = digests_of(folder)
    deb = package(folder, tmp_path / "set.deb")
    for number, source in enumerate((folder, deb)):
        out = copy_files(source, tmp_path / f"out{number}", digests=digests)
        assert digests_of(out) == digests
        assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_nothing_is_copied_if_one_file_is_another_one(folder: Path, tmp_path: Path) -> None:
    digests = digests_of(folder)
    (folder / LABELS).write_bytes(b"other")
    with pytest.raises(DataError, match=f"files: {LABELS}: SHA-256 is d9298a10d1b0….*apt-get download"):
        copy_files(folder, tmp_path / "out", digests=digests)
    assert not (tmp_path / "out").exists()
    (folder / LABELS).unlink()
    with pytest.raises(DataError, match=f"has no {LABELS}; give a folder with these files, or the .deb"):
        copy_files(folder, tmp_path / "out", digests=digests)


def test_what_is_no_package_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "set.deb"
    whole = package(folder, path).read_bytes()
    for content in (b"", b"something", b"!<arch>\n", whole[:-200], whole.replace(b"data.tar.xz", b"date.tar.xz")):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a readable Debian package; give dataset-fashion-mnist"):
            copy_files(path, tmp_path / "out")
    package(folder, path, names=(IMAGES,))
    with pytest.raises(DataError, match=f"contains no {LABELS}"):
        copy_files(path, tmp_path / "out")


def test_ubuntus_compression_is_named_with_the_way_around_it(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "set.deb"
    xz = package(folder, path).read_bytes()
    path.write_bytes(xz.replace(b"data.tar.xz ", b"data.tar.zst").replace(b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd\x00\x00"))
    words = "compressed by zstd.*dpkg-deb -x set.deb unpacked, then give unpacked/usr/share/datasets/fashion-mnist"
    with pytest.raises(DataError, match=words):
        copy_files(path, tmp_path / "out")


def test_a_package_with_a_negative_size_ends(tmp_path: Path) -> None:
    """Such a size once led back to the same member without end."""
    path = tmp_path / "set.deb"
    path.write_bytes(b"!<arch>\n" + f"{'x':<16}{0:<12}{0:<6}{0:<6}{0:<8}{-60:<10}`\n".encode())
    with pytest.raises(DataError, match="not a readable Debian package"):
        copy_files(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, idx(np.zeros((6, 28, 28)), 2049), "not an IDX file of 28×28 images"),
        (IMAGES, idx(np.zeros((6, 28, 27)), 2051), "not an IDX file of 28×28 images"),
        (IMAGES, gzip.compress(b"short", mtime=0), "not an IDX file of 28×28 images"),
        (IMAGES, idx(np.zeros((6, 28, 28)), 2051)[:40], "not a complete gzip file"),
        (IMAGES, idx(np.zeros((5, 28, 28)), 2051), "found 5 images and 6 labels"),
        (LABELS, idx(np.full(6, 10), 2049), "not an IDX file of labels 0 to 9"),
        (LABELS, b"text", "not a complete gzip file"),
    ],
)
def test_a_file_of_another_form_is_refused(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("train", folder, digests=digests_of(folder))


def test_a_file_with_another_digest_or_none_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="SHA-256 is .*, expected is b0564c3eedab….*get the file again"):
        load("train", folder)
    (folder / IMAGES).unlink()
    with pytest.raises(DataError, match="cannot be read \\(No such file or directory\\).*install Debian's package"):
        load("train", folder)


def test_the_first_folder_with_all_files_is_taken(folder: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(folder / IMAGES, part)
    assert find_folder((part, tmp_path / "none", folder)) == folder
    with pytest.raises(DataError, match=r"no files in .*part or .*none; run: qdit data fashion-mnist FOLDER_OR_DEB"):
        find_folder((part, tmp_path / "none"))


def test_without_the_files_the_data_set_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion_mnist, "find_folder", lambda: find_folder((Path("a"), Path("b"))))
    with pytest.raises(DataError, match="no files in a or b; run: qdit data fashion-mnist"):
        data_set("fashion-mnist", "held_out")
