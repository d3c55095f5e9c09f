"""Fashion-MNIST: 60,000 training and 10,000 test photographs of clothes, 28×28, grey, ten classes (MIT licence).

Source: Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747. Debian's package `dataset-fashion-mnist` contains the four files.
"""

import gzip
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from qdit.core.errors import DataError
from qdit.core.files import write_bytes
from qdit.mini.data.labelled import LabelledImages, Part

SIZE = 28
"""Side of an image in pixels."""
FOLDER = Path("data", "fashion-mnist")
"""Folder into which `qdit data fashion-mnist` copies the files, below the current folder."""
PACKAGE_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package."""

FILES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
"""Files of the data set and their SHA-256. They are the files that the authors publish."""

LABEL_NAMES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
"""Name of each class, by label."""

IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
"""First number of an IDX file of images (three axes), and of one of labels (one axis). All numbers are big-endian."""
IMAGES_HEADER, LABELS_HEADER = 16, 8
"""Bytes before the values in an IDX file of images, and in one of labels."""
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60
"""A Debian package is an ar archive; each of its members has a header of 60 bytes."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""First bytes of data that zstd has compressed."""
ADVICE = "install Debian's package dataset-fashion-mnist, or download it: apt-get download dataset-fashion-mnist"


def load(split: Part, folder: Path | None = None, *, digests: Mapping[str, str] = FILES) -> LabelledImages:
    """One part of Fashion-MNIST: `train` (60,000 images), `held_out` (the 10,000 test images) or `all`, in file order.

    Images are (N, 1, 28, 28) float32 in [−1, 1]. Without `folder` the files are searched in `FOLDER`, then in
    `PACKAGE_FOLDER`. Raises DataError if a file is missing, or if its digest is not that of `digests`.
    """
    folder = folder or find_folder()
    stems = {"train": ("train",), "held_out": ("t10k",), "all": ("train", "t10k")}[split]
    images = np.concatenate([read_images(folder / f"{stem}-images-idx3-ubyte.gz", digests) for stem in stems])
    labels = np.concatenate([read_labels(folder / f"{stem}-labels-idx1-ubyte.gz", digests) for stem in stems])
    if len(images) != len(labels):
        raise DataError(f"{folder}: found {len(images)} images and {len(labels)} labels; get the files again. {ADVICE}")
    scaled = images[:, None].astype(np.float32) / 127.5 - 1
    return LabelledImages(torch.from_numpy(scaled), torch.from_numpy(labels.astype(np.int64)))


def find_folder(folders: tuple[Path, ...] = (FOLDER, PACKAGE_FOLDER)) -> Path:
    """First of the folders that has all four files. DataError if none has."""
    for folder in folders:
        if all((folder / name).is_file() for name in FILES):
            return folder
    raise DataError(
        f"Fashion-MNIST: no files in {' or '.join(map(str, folders))}; run: qdit data fashion-mnist FOLDER_OR_DEB;"
        f" to get them, {ADVICE}"
    )


def read_images(path: Path, digests: Mapping[str, str] = FILES) -> np.ndarray:
    """Read images (N, 28, 28) uint8 from an IDX file.

    DataError for another format, or a digest that is not in `digests`.
    """
    values = read(path, digests)
    magic, count, height, width = np.frombuffer(values[:IMAGES_HEADER], ">u4") if len(values) >= 16 else (0, 0, 0, 0)
    pixels = np.frombuffer(values[IMAGES_HEADER:], np.uint8)
    if magic != IMAGES_MAGIC or (height, width) != (SIZE, SIZE) or len(pixels) != count * SIZE * SIZE:
        raise DataError(f"{path}: not an IDX file of {SIZE}×{SIZE} images; get the file again. {ADVICE}")
    return pixels.reshape(-1, SIZE, SIZE)


def read_labels(path: Path, digests: Mapping[str, str] = FILES) -> np.ndarray:
    """Read labels (N,) uint8 from an IDX file. DataError for another format, or a digest that is not in `digests`."""
    values = read(path, digests)
    magic, count = np.frombuffer(values[:LABELS_HEADER], ">u4") if len(values) >= LABELS_HEADER else (0, 0)
    labels = np.frombuffer(values[LABELS_HEADER:], np.uint8)
    if magic != LABELS_MAGIC or len(labels) != count or labels.max(initial=0) >= len(LABEL_NAMES):
        raise DataError(f"{path}: not an IDX file of labels 0 to 9; get the file again. {ADVICE}")
    return labels


def read(path: Path, digests: Mapping[str, str] = FILES) -> bytes:
    """Read and unpack one of the gzip files. DataError if its digest is not the one in `digests`."""
    try:
        packed = path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror}). {ADVICE}") from None
    require_digest(str(path), packed, digests[path.name])
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{path}: not a complete gzip file; get the file again. {ADVICE}") from None


def require_digest(where: str, content: bytes, expected: str) -> None:
    """Raise DataError unless `content` has the expected SHA-256. `where` starts the message."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise DataError(
            f"{where}: SHA-256 is {digest[:12]}…, expected is {expected[:12]}…; get the file again. {ADVICE}"
        )


def copy_files(source: Path | None, out: Path = FOLDER, *, digests: Mapping[str, str] = FILES) -> Path:
    """Copy the four files to the folder `out`; return it. The files are checked before the first is written.

    `source` is a folder with the files, or a Debian package; None searches `PACKAGE_FOLDER`. Raises DataError if a file
    is missing or has another digest.
    """
    source = source or PACKAGE_FOLDER
    contents = files_of_package(source, tuple(digests)) if source.is_file() else files_of_folder(source, tuple(digests))
    for name, content in contents.items():
        require_digest(f"{source}: {name}", content, digests[name])
    for name, content in contents.items():
        write_bytes(out / name, content)
    return out


def files_of_folder(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read the named files of a folder: name → bytes. DataError if a file is missing."""
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DataError(f"{folder}: has no {', '.join(missing)}; give a folder with these files, or the .deb. {ADVICE}")
    return {name: (folder / name).read_bytes() for name in names}


def files_of_package(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read the named files inside a Debian package: name → bytes. DataError if a file is missing.

    Nothing is unpacked to the disk.
    """
    try:
        data = data_member(path.read_bytes())
        if data.startswith(ZSTD_MAGIC):
            raise DataError(
                f"{path}: its data are compressed by zstd, as in Ubuntu's packages, and Python does not read it; unpack"
                f" the package, dpkg-deb -x {path.name} unpacked, then give unpacked{PACKAGE_FOLDER}"
            )
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}
            readers = {name: archive.extractfile(members[name]) for name in names if name in members}
            contents = {name: reader.read() for name, reader in readers.items() if reader is not None}
    except (ValueError, EOFError, tarfile.TarError, lzma.LZMAError):
        raise DataError(f"{path}: not a readable Debian package; give dataset-fashion-mnist_*.deb. {ADVICE}") from None
    if missing := [name for name in names if name not in contents]:
        raise DataError(f"{path}: contains no {', '.join(missing)}; give dataset-fashion-mnist_*.deb. {ADVICE}")
    return contents


def data_member(package: bytes) -> bytes:
    """Bytes of the archive `data.tar.*` inside a Debian package, still compressed. ValueError if there is none."""
    if not package.startswith(AR_MAGIC):
        raise ValueError("no ar archive")
    position = len(AR_MAGIC)
    while position + AR_HEADER <= len(package):
        header = package[position : position + AR_HEADER]
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        start = position + AR_HEADER
        if size < 0:
            raise ValueError("a member of negative size")
        if name.startswith("data.tar"):
            return package[start : start + size]
        position = start + size + size % 2
    raise ValueError("no data.tar")
