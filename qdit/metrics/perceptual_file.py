"""The file `lpips.npz` beside samples: LPIPS of each image to the full-precision image, and the origin of the values.

This module loads no torch: the evaluation reads the file, `qdit.metrics.perceptual_run` writes it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import load_arrays, parse_json, save_arrays, sha256_json
from qdit.metrics.samples import Shard, listed_shards

FILE = "lpips.npz"


@dataclass(frozen=True)
class LpipsOrigin:
    """Origin of LPIPS values: the network, sha256 of its two weights files, and further digests.

    These are digests of both runs' images and of the code.
    """

    network: str
    backbone_sha256: str
    linear_sha256: str
    samples: str
    fp_samples: str
    code: str

    @property
    def weights(self) -> dict[str, str]:
        """Name of the network and digests of its weights, for metrics.json."""
        return {name: getattr(self, name) for name in ("network", "backbone_sha256", "linear_sha256")}


def digest_of_images(shards: Sequence[Shard]) -> str:
    """Digest of all images of a run, computed from the digests of its chunk files."""
    return sha256_json(sorted({chunk for shard in shards for chunk in shard.chunks}))


def digest_of_folder(folder: Path, images: int | None) -> str:
    """Digest of the images in a folder of samples."""
    return digest_of_images(listed_shards(folder, images=images))


def write_values(path: Path, values: np.ndarray, origin: LpipsOrigin) -> None:
    """Write the LPIPS (N,) of a run's images to the full-precision images, with its origin."""
    save_arrays(path, {"lpips": values, "origin": np.array(json.dumps(asdict(origin), sort_keys=True))})


def read_values(path: Path, *, samples: Path, fp_samples: Path, images: int) -> tuple[np.ndarray, LpipsOrigin]:
    """Read the LPIPS (N,) of these images to these full-precision images, and its origin.

    DataError for a file about other samples.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; run `qdit perceptual {samples} {fp_samples}`")
    arrays = load_arrays(path)
    try:
        values, origin = arrays["lpips"], LpipsOrigin(**parse_json(str(arrays["origin"])))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: not the LPIPS of a run; run `qdit perceptual` again") from None
    for folder, recorded in ((samples, origin.samples), (fp_samples, origin.fp_samples)):
        if recorded != digest_of_folder(folder, images):
            raise DataError(f"{path}: is not of the images in {folder}; run `qdit perceptual` again")
    if values.shape != (images,) or not np.isfinite(values).all():
        raise DataError(f"{path}: holds {values.shape} values, expected are {images}; run `qdit perceptual` again")
    return np.asarray(values, np.float64), origin
