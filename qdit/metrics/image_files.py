"""Reading of images of any program, from a folder of PNGs or an npz, as uint8 (N, C, H, W), block by block.

The channel axis of an array is the axis of size 1 or 3. Images without such an axis are grey. An array with two
possible channel axes is refused. Data types other than uint8 are refused too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import sha256_file, sha256_json
from qdit.core.npz import member_names, member_shape, read_member, stream_member

BLOCK = 64
"""Images in memory at a time."""
ARRAYS = ("arr_0", "images")
"""Names of the array of images: ADM's, and ours."""
LABELS = ("arr_1", "labels")
CHANNELS = (1, 3)
MODES = {"L": 1, "RGB": 3}
"""Kinds of PNG that are read → channels."""


@dataclass(frozen=True)
class ImageSource:
    """Images of another program on disk: path, number and shape (C, H, W), and labels (N,) int64 if known."""

    path: Path
    count: int
    shape: tuple[int, int, int]
    labels: np.ndarray | None

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Yield uint8 images (n, C, H, W), `size` at a time; DataError for a file that cannot be read."""
        if self.path.is_dir():
            files = png_files(self.path)
            for start in range(0, len(files), size):
                yield np.stack([read_png(file, self.shape) for file in files[start : start + size]])
            return
        name = array_name(self.path)
        shape, _ = member_shape(self.path, name)
        axis = channel_axis(shape, str(self.path))
        for rows in stream_member(self.path, name, rows=size):
            yield np.ascontiguousarray(rows[:, None] if axis is None else np.moveaxis(rows, axis, 1))

    def sha256(self) -> str:
        """Digest of the npz file, or of all PNGs in the folder."""
        if not self.path.is_dir():
            return sha256_file(self.path)
        return sha256_json({file.name: sha256_file(file) for file in png_files(self.path)})


def open_images(path: Path, *, least: int = 1) -> ImageSource:
    """Open a folder of PNGs or an npz of images. Only sizes are read here.

    Raises DataError for fewer than `least` images, and for arrays other than uint8 (N, H, W), (N, H, W, C) or (N, C, H,
    W).
    """
    source = folder_source(path) if path.is_dir() else npz_source(path)
    if source.count < least:
        raise DataError(f"{path}: holds {source.count} images, at least {least} are needed; give more images")
    return source


def folder_source(folder: Path) -> ImageSource:
    """The images of a folder of PNGs, in the order of the numbers in their names."""
    files = png_files(folder)
    if not files:
        raise DataError(f"{folder}: holds no *.png; give a folder of PNGs or an npz with images")
    require_distinct(folder, files)
    first = read_png(files[0], None)
    return ImageSource(folder, len(files), (first.shape[0], first.shape[1], first.shape[2]), None)


def npz_source(path: Path) -> ImageSource:
    """The images of an npz, and its labels if it has them."""
    shape, dtype = member_shape(path, array_name(path))
    if dtype != np.uint8:
        raise DataError(f"{path}: images are {dtype}, allowed is uint8 (0 to 255); convert them first")
    axis = channel_axis(shape, str(path))
    channels = 1 if axis is None else shape[axis]
    height, width = (size for at, size in enumerate(shape) if at not in (0, axis))
    labels_name = next((name for name in LABELS if name in member_names(path)), None)
    labels = None if labels_name is None else read_member(path, labels_name)
    if labels is not None and (labels.shape != shape[:1] or labels.dtype.kind not in "iu"):
        raise DataError(
            f"{path}: {labels_name} is {labels.dtype} {labels.shape}, allowed is one whole number for each of the"
            f" {shape[0]} images; leave it out if the labels are not known"
        )
    return ImageSource(path, shape[0], (channels, height, width), None if labels is None else labels.astype(np.int64))


def array_name(path: Path) -> str:
    """Name of the array of images in an npz: `arr_0`, `images`, or the only array in the file."""
    names = member_names(path)
    member_name = next((name for name in ARRAYS if name in names), names[0] if len(names) == 1 else None)
    if member_name is None:
        raise DataError(f"{path}: has no images (arr_0), found {', '.join(names) or 'no arrays'}; give ADM's layout")
    return member_name


def channel_axis(shape: tuple[int, ...], where: str) -> int | None:
    """Index of the channel axis; None for grey images without such an axis. DataError if the shape does not tell."""
    if len(shape) == 3:
        return None
    axes = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] in CHANNELS]
    if len(axes) == 1:
        return axes[0]
    what = "either of two axes could be the channels" if axes else "no axis of 1 or 3 channels is there"
    raise DataError(
        f"{where}: images of shape {shape}: {what}; allowed are (N, H, W), (N, H, W, C) and (N, C, H, W) with C 1 or 3"
    )


def png_files(folder: Path) -> list[Path]:
    """The PNGs of a folder, sorted so that 2.png stands before 10.png."""

    def order(path: Path) -> list[tuple[int, str]]:
        return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"([0-9]+)", path.name)]

    return sorted((path for path in folder.iterdir() if path.suffix.lower() == ".png"), key=order)


def require_distinct(folder: Path, files: list[Path]) -> None:
    """Raise DataError for symbolic links, and for two names with the same number, such as 1.png and 01.png."""
    seen: dict[str, str] = {}
    for file in files:
        if file.is_symlink():
            raise DataError(f"{file}: is a link; copy the image itself into the folder")
        name = re.sub(r"[0-9]+", lambda match: str(int(match[0])), file.name.lower())
        if name in seen:
            raise DataError(f"{folder}: holds {seen[name]} and {file.name}, which have one number; remove one of them")
        seen[name] = file.name


def require_indices(folder: Path) -> None:
    """Raise DataError unless the PNGs of a folder are named by the indices 0, 1, 2 …, which makes the order certain."""
    for number, file in enumerate(png_files(folder)):
        if not file.stem.isdigit() or int(file.stem) != number:
            raise DataError(
                f"{folder}: image {number} is missing, the file in its place is {file.name}; name the images 00000.png,"
                " 00001.png … without a gap"
            )


def bit_depth(file: Path) -> int:
    """Number of bits of a channel, from the header of a PNG. Pillow reads 16 bits as 8 bits without a warning."""
    with file.open("rb") as data:
        return data.read(25)[24]


def read_png(file: Path, shape: tuple[int, int, int] | None) -> np.ndarray:
    """Read a PNG as uint8 (C, H, W); DataError for a file that is not a grey or RGB PNG, and for another shape."""
    from PIL import Image

    try:
        with Image.open(file, formats=["PNG"]) as image:
            mode = image.mode if bit_depth(file) == 8 else f"{image.mode} with {bit_depth(file)} bits"
            pixels = np.asarray(image) if mode in MODES else None
    except Exception as problem:  # Pillow raises many types for damaged files
        raise DataError(f"{file}: not a readable PNG ({' '.join(str(problem).split())}); make it again") from None
    if pixels is None:
        raise DataError(f"{file}: a PNG of mode {mode}, allowed are 8-bit grey (L) and RGB; convert it first")
    pixels_chw: np.ndarray = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if shape not in (None, pixels_chw.shape):
        raise DataError(
            f"{file}: an image of shape {pixels_chw.shape}, the first of the folder has {shape}; give one size"
        )
    return pixels_chw
