"""Fashion-MNIST: 60,000 training and 10,000 test photographs of clothes, 28×28, grey, ten classes (MIT licence).

Source: Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747. Debian's package `dataset-fashion-mnist` contains the four files.
"""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch

from qdit.core.errors import DataError
from qdit.mini.data.digits import Digits, Part

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

IMAGES_HEADER, LABELS_HEADER = 16, 8
"""Bytes before the values in an IDX file of images, and in one of labels."""


def load(split: Part, folder: Path | None = None) -> Digits:
    """One part of Fashion-MNIST: `train` (60,000 images), `held_out` (the 10,000 test images) or `all`, in file order.

    Images are (N, 1, 28, 28) float32 in [−1, 1]. Without `folder` the files are searched in `FOLDER`, then in
    `PACKAGE_FOLDER`. Raises DataError if a file is missing or its digest differs.
    """
    folder = folder or find_folder()
    stems = {"train": ("train",), "held_out": ("t10k",), "all": ("train", "t10k")}[split]
    images = np.concatenate([read(folder / f"{stem}-images-idx3-ubyte.gz")[IMAGES_HEADER:] for stem in stems])
    labels = np.concatenate([read(folder / f"{stem}-labels-idx1-ubyte.gz")[LABELS_HEADER:] for stem in stems])
    scaled = images.reshape(-1, 1, SIZE, SIZE).astype(np.float32) / 127.5 - 1
    return Digits(torch.from_numpy(scaled), torch.from_numpy(labels.astype(np.int64)))


def find_folder() -> Path:
    """The first folder that has all four files; DataError if none has."""
    for folder in (FOLDER, PACKAGE_FOLDER):
        if all((folder / name).is_file() for name in FILES):
            return folder
    raise DataError(
        f"Fashion-MNIST: no files in {FOLDER}/ or {PACKAGE_FOLDER}; install Debian's package dataset-fashion-mnist,"
        " or run: qdit data fashion-mnist FOLDER"
    )


def read(path: Path) -> np.ndarray:
    """Bytes of one of `FILES`, unpacked (uint8); DataError if its digest is not the published one."""
    try:
        packed = path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror}); give a folder with {', '.join(FILES)}") from None
    digest = hashlib.sha256(packed).hexdigest()
    if digest != FILES[path.name]:
        raise DataError(
            f"{path}: SHA-256 is {digest[:12]}…, expected is {FILES[path.name][:12]}…; get the file again, for example"
            " from Debian's package dataset-fashion-mnist"
        )
    return np.frombuffer(gzip.decompress(packed), np.uint8)
