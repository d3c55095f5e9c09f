"""What generated images are compared with: statistics of real images, ours or guided-diffusion's (ADM's)."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import save_arrays
from qdit.core.npz import member_names, member_shape, read_member, stream_member
from qdit.metrics.features import Extractor, Images
from qdit.metrics.image_files import ARRAYS, CHANNELS, ImageSource, open_images
from qdit.metrics.statistics import Moments, MomentsAccumulator, moments

STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
"""ADM's key names: mean and covariance of the pool and of the spatial features."""
STREAM_ROWS = 64
DIGEST = "extractor_digest"
PROBES = ((3, 64, 64), (1, 8, 8), (1, 16, 16))
"""Shapes of images that some extractor takes."""
LEAST = 4
"""Images below which there is no precision and recall: each has three nearest neighbours."""


@dataclass(frozen=True)
class Reference:
    """Moments of real images and, for precision and recall, pool features (N, d) of real images.

    `extractor_digest` says which weights made it; it is empty in ADM's files, which do not say. `pool_features` is
    None for an ADM file as it is loaded: `import_adm_reference` computes them from its images. Ready statistics of
    another program have no pool features, and no spatial moments either where they are FID's alone.
    """

    pool: Moments
    spatial: Moments | None
    pool_features: np.ndarray | None
    extractor_digest: str


def build_reference(images: Images, extractor: Extractor) -> Reference:
    """Reference from uint8 images (N, C, H, W): the same images give the moments and the pool features."""
    features = extractor(images)
    return Reference(moments(features.pool), moments(features.spatial), features.pool, extractor.digest)


def save_reference(path: Path, reference: Reference) -> None:
    """Write an npz with mu, sigma, mu_s, sigma_s, pool (those that there are) and extractor_digest."""
    if reference.extractor_digest == "":
        raise DataError(f"{path}: a reference of an unknown extractor is not saved; use import_adm_reference first")
    arrays = {"mu": reference.pool.mean, "sigma": reference.pool.covariance}
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    if reference.pool_features is not None:
        arrays["pool"] = reference.pool_features
    save_arrays(path, arrays | {"extractor_digest": np.array(reference.extractor_digest)})


def load_reference(path: Path) -> Reference:
    """Read a reference of ours or an ADM batch (mu, sigma, mu_s, sigma_s, arr_0); arr_0 is not read.

    Statistics of any floating type become float64. Raises DataError on anything else.
    """
    names = member_names(path)
    needed = STATISTICS[:2] if DIGEST in names else STATISTICS
    if missing := [name for name in needed if name not in names]:
        raise DataError(
            f"{path}: has no {', '.join(missing)}, found {', '.join(names)}; allowed are references made by"
            " `qdit reference` (also from mu and sigma alone) and ADM's VIRTUAL_imagenet*.npz"
        )
    pool = read_moments(path, *STATISTICS[:2])
    spatial = read_moments(path, *STATISTICS[2:]) if STATISTICS[2] in names else None
    features = read_member(path, "pool") if "pool" in names else None
    if features is not None and (features.shape[1:] != pool.mean.shape or not np.isfinite(features).all()):
        raise DataError(f"{path}: pool is no finite array of {len(pool.mean)} features an image; make the file again")
    return Reference(pool, spatial, features, str(read_member(path, DIGEST)) if DIGEST in names else "")


def read_moments(path: Path, mean_name: str, covariance_name: str) -> Moments:
    """Mean and covariance of a file; DataError unless they are finite, of one size, and a covariance."""
    mean, covariance = (read_numbers(path, name) for name in (mean_name, covariance_name))
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise DataError(
            f"{path}: mean {mean.shape} and covariance {covariance.shape} are not statistics of the same features;"
            " make the file again or fetch it again"
        )
    spread = np.diagonal(covariance)
    unequal = np.abs(covariance - covariance.T).max(initial=0) > 1e-4 * max(1e-12, np.abs(spread).max(initial=0))
    if unequal or (spread < 0).any():
        raise DataError(
            f"{path}: {covariance_name} is not symmetric with variances of at least 0, so it is no covariance; make the"
            " file again or fetch it again"
        )
    return Moments(mean, covariance)


def read_numbers(path: Path, name: str) -> np.ndarray:
    """An array as finite float64; DataError for text and for NaN or infinity."""
    numbers = read_member(path, name)
    if numbers.dtype.kind not in "fiu":
        raise DataError(f"{path}: {name} is {numbers.dtype}, allowed are numbers; make the file again")
    values = np.asarray(numbers, np.float64)
    if bad := values.size - int(np.isfinite(values).sum()):
        raise DataError(
            f"{path}: {bad} of {values.size} values of {name} are NaN or infinite; make the file again, or fetch it"
        )
    return values


def reference_of_images(images: ImageSource, extractor: Extractor) -> Reference:
    """Reference of a user's own images, read block by block: the same images give moments and pool features."""
    pool, spatial, features = MomentsAccumulator(), MomentsAccumulator(), []
    for block in images.blocks():
        block_features = extractor(block)
        pool.update(block_features.pool)
        spatial.update(block_features.spatial)
        features.append(block_features.pool)
    return Reference(pool.moments(), spatial.moments(), np.concatenate(features), extractor.digest)


def reference_of_statistics(path: Path, extractor: Extractor) -> Reference:
    """Reference of ready statistics (mu, sigma; mu_s and sigma_s if they are there), which `extractor` is to have made.

    The images beside them, in any axis order, give the pool features; without images there is no precision and recall,
    without mu_s no sFID. DataError for another number of features.
    """
    names = member_names(path)
    pool = read_moments(path, *STATISTICS[:2])
    spatial = read_moments(path, *STATISTICS[2:]) if STATISTICS[2] in names else None
    require_width(path, pool, width_of(extractor))
    features = None
    if any(name in names for name in ARRAYS):
        features = np.concatenate([extractor(block).pool for block in open_images(path, least=LEAST).blocks()])
    return Reference(pool, spatial, features, extractor.digest)


def make_reference(path: Path, extractor: Extractor) -> Reference:
    """Reference of a folder of PNGs, of an npz of images, or of ready statistics."""
    if not path.is_dir() and set(STATISTICS[:2]) <= set(member_names(path)):
        return reference_of_statistics(path, extractor)
    return reference_of_images(open_images(path, least=LEAST), extractor)


def width_of(extractor: Extractor) -> int:
    """The number of an extractor's pool features, of images of the first size that it takes."""
    for shape in PROBES:
        try:
            return int(extractor(np.zeros((1, *shape), np.uint8)).pool.shape[1])
        except DataError:
            continue
    raise DataError(f"{extractor.name}: takes none of the image shapes {PROBES}; give images instead of statistics")


def import_adm_reference(path: Path, extractor: Extractor) -> Reference:
    """An ADM batch with the pool features of its images arr_0 (N, H, W, C) uint8, streamed from the file.

    ADM uses these images for precision and recall only; the moments are those of the whole training set.
    """
    reference = load_reference(path)
    check_adm_images(path)
    pool = [
        extractor(np.ascontiguousarray(rows.transpose(0, 3, 1, 2))).pool
        for rows in stream_member(path, "arr_0", rows=STREAM_ROWS)
    ]
    features = np.concatenate(pool)
    require_width(path, reference.pool, features.shape[1])
    return replace(reference, pool_features=features, extractor_digest=extractor.digest)


def check_adm_images(path: Path) -> tuple[int, int]:
    """(height, width) of a batch's images; DataError unless there are enough, as uint8 (N, H, W, C)."""
    if "arr_0" not in (names := member_names(path)):
        raise DataError(
            f"{path}: has no images (arr_0), found {', '.join(names)}; `qdit reference OUT --data {path.name}` takes"
            " ready statistics without images"
        )
    shape, dtype = member_shape(path, "arr_0")
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in CHANNELS:
        raise DataError(
            f"{path}: arr_0 is {dtype} {shape}, ADM's batches are uint8 (N, H, W, C) with C 1 or 3; `qdit reference OUT"
            f" --data {path.name}` takes images of other axis orders"
        )
    if shape[0] < LEAST:
        raise DataError(f"{path}: arr_0 holds {shape[0]} images, at least {LEAST} are needed; fetch the file again")
    return shape[1], shape[2]


def require_width(path: Path, moments: Moments, width: int) -> None:
    """Raise DataError unless statistics are of as many features as the extractor gives."""
    if len(moments.mean) != width:
        raise DataError(
            f"{path}: mu has {len(moments.mean)} features, the extractor gives {width}; use the extractor that the file"
            " was made with"
        )
