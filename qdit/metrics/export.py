"""Export of a run's images for other programs: ADM's npz (arr_0, arr_1) or a folder of PNGs."""

from pathlib import Path

import numpy as np

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import atomic_path, save_arrays, write_json
from qdit.metrics.samples import listed_shards, read_shard, shard_path, stream_samples
from qdit.metrics.statement import FILE, MEMBER, as_member, statement_of

BATCH_SUFFIX = ".npz"


def export_images(samples: Path, out: Path) -> int:
    """Write all images of a run to `out`, an npz or a folder, and return their number.

    The npz is what guided-diffusion's evaluator reads: arr_0 uint8 (N, H, W, C), arr_1 labels (N,) int64 where they are
    known. The folder holds 00000.png and so on. Both also hold the protocol (`qdit.metrics.statement`), so that `qdit
    import-samples` can pair the images with full precision. Raises DataError for an incomplete run.
    """
    if not shard_path(samples, 0).is_file():
        raise DataError(f"{samples}: has no shard-000.json; give the folder that `qdit sample` wrote")
    first = read_shard(shard_path(samples, 0))
    count, origin = first.images, first.origin
    listed_shards(samples, images=count)
    statement = statement_of(origin.get("protocol", {})) if isinstance(origin, dict) else None
    if out.suffix == BATCH_SUFFIX:
        chunks = list(stream_samples(samples, images=count))
        labels = np.concatenate([chunk.labels for chunk in chunks])
        images = np.concatenate([chunk.images.transpose(0, 2, 3, 1) for chunk in chunks])
        beside = {} if statement is None else {MEMBER: as_member(statement)}
        save_arrays(out, {"arr_0": images} | ({"arr_1": labels} if (labels >= 0).all() else {}) | beside)
    else:
        write_pngs(samples, out, count)
        if statement is not None:
            write_json(out / FILE, statement)
    return count


def write_pngs(samples: Path, folder: Path, count: int) -> None:
    """Write each image as a PNG with its number; ConfigError if the folder holds other PNGs."""
    from PIL import Image

    names = [f"{number:05d}.png" for number in range(count)]
    if folder.is_dir() and (others := {path.name for path in folder.glob("*.png")} - set(names)):
        raise ConfigError(f"{folder}: holds {len(others)} other PNGs, first {min(others)}; give an empty folder")
    for chunk in stream_samples(samples, images=count):
        for name, image in zip(names[chunk.first :], chunk.images, strict=False):
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            with atomic_path(folder / name) as temporary, temporary.open("wb") as data:
                Image.fromarray(np.ascontiguousarray(pixels)).save(data, format="PNG")
