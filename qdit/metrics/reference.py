"""References: statistics of real images for FID and similar metrics, computed here or taken from ADM's files."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.files import parse_json, save_arrays, sha256_file
from qdit.core.npz import member_names, member_shape, read_member, stream_member
from qdit.metrics.extractor_names import extractor_code
from qdit.metrics.features import Extractor, Images
from qdit.metrics.image_files import ARRAYS, CHANNELS, ImageSource, open_images
from qdit.metrics.statistics import Moments, MomentsAccumulator, moments

STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
"""ADM's key names: mean and covariance of the pool and of the spatial features."""
STREAM_ROWS = 64
DIGEST, ORIGIN = "extractor_digest", "origin"
PROBES = ((3, 64, 64), (1, 8, 8), (1, 16, 16), (1, 28, 28))
"""Shapes of images that some extractor takes."""
LEAST = 4
"""Images below which there is no precision and recall: each has three nearest neighbours."""


@dataclass(frozen=True)
class ReferenceOrigin:
    """Origin of a reference: name and sha256 of its images or statistics, the extractor, and the digest of the code."""

    source: str
    source_sha256: str
    extractor: str
    extractor_digest: str
    code: str


@dataclass(frozen=True)
class Reference:
    """Moments of real images and, for precision and recall, pool features (N, d) of real images.

    `origin` is the origin of the data, `extractor_digest` the digest of the extractor's weights; a file of ADM has
    neither (None, empty). `pool_features` is None after an ADM file is loaded; `import_adm_reference` computes them
    from its images. Statistics that another program computed have no pool features. They have no spatial moments if
    they are only for FID.
    """

    pool: Moments
    spatial: Moments | None
    pool_features: np.ndarray | None
    extractor_digest: str
    origin: ReferenceOrigin | None = None


def build_reference(images: Images, extractor: Extractor, *, source: str = "images in memory") -> Reference:
    """Make a reference from uint8 images (N, C, H, W): the same images give the moments and the pool features."""
    features = extractor(images)
    origin = origin_of(source, images_sha256(images), extractor)
    return Reference(moments(features.pool), moments(features.spatial), features.pool, extractor.digest, origin)


def images_sha256(images: Images) -> str:
    """Digest of an array of images, from its shape and bytes."""
    pixels = np.ascontiguousarray(images)
    return hashlib.sha256(f"{pixels.dtype} {pixels.shape}\0".encode() + pixels.tobytes()).hexdigest()


def origin_of(source: str, source_sha256: str, extractor: Extractor) -> ReferenceOrigin:
    """Origin of a reference: its source, the extractor, and the code of this version."""
    code = code_digest("qdit.metrics.reference", *extractor_code(extractor.name))
    return ReferenceOrigin(source, source_sha256, extractor.name, extractor.digest, code)


def save_reference(path: Path, reference: Reference) -> None:
    """Write a reference as an npz: extractor_digest, origin, and those of mu, sigma, mu_s, sigma_s, pool that exist."""
    if reference.extractor_digest == "" or reference.origin is None:
        raise DataError(f"{path}: a reference of an unknown extractor is not saved; use import_adm_reference first")
    arrays = {"mu": reference.pool.mean, "sigma": reference.pool.covariance}
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    if reference.pool_features is not None:
        arrays["pool"] = reference.pool_features
    origin = json.dumps(asdict(reference.origin), sort_keys=True)
    save_arrays(path, arrays | {DIGEST: np.array(reference.extractor_digest), ORIGIN: np.array(origin)})


def load_reference(path: Path) -> Reference:
    """Read a reference file of ours or of ADM (mu, sigma, mu_s, sigma_s, arr_0); the images arr_0 are not read.

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
        raise DataError(
            f"{path}: pool is not a finite array of {len(pool.mean)} features an image; make the file again"
        )
    if DIGEST not in names:
        return Reference(pool, spatial, features, "")
    digest = str(read_member(path, DIGEST))
    return Reference(pool, spatial, features, digest, read_origin(path, digest))


def read_origin(path: Path, digest: str) -> ReferenceOrigin:
    """Read the origin in one of our reference files; DataError if it holds none, or names another extractor."""
    if ORIGIN not in member_names(path):
        raise DataError(
            f"{path}: does not say what the reference was made of (an older version made it); make it again with"
            " qdit reference"
        )
    try:
        origin = ReferenceOrigin(**parse_json(str(read_member(path, ORIGIN))))
    except (TypeError, ValueError):
        raise DataError(
            f"{path}: does not say all that the reference was made of; make it again with qdit reference"
        ) from None
    if origin.extractor_digest != digest:
        raise DataError(
            f"{path}: its statistics are of an extractor {digest[:12]}…, its origin says"
            f" {str(origin.extractor_digest)[:12]}…: it was edited; make it again with qdit reference"
        )
    return origin


def read_moments(path: Path, mean_name: str, covariance_name: str) -> Moments:
    """Read a mean and a covariance from a file.

    DataError unless they are finite, have one size, and the matrix is a covariance.
    """
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
            f"{path}: {covariance_name} is not symmetric with variances of at least 0, so it is not a covariance; make"
            " the file again or fetch it again"
        )
    return Moments(mean, covariance)


def read_numbers(path: Path, name: str) -> np.ndarray:
    """Read one array of a file as float64; DataError for text and for NaN or infinity."""
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
    """Make a reference of a user's own images, read block by block. They give both moments and pool features."""
    pool, spatial, features = MomentsAccumulator(), MomentsAccumulator(), []
    for block in images.blocks():
        block_features = extractor(block)
        pool.update(block_features.pool)
        spatial.update(block_features.spatial)
        features.append(block_features.pool)
    origin = origin_of(images.path.name, images.sha256(), extractor)
    return Reference(pool.moments(), spatial.moments(), np.concatenate(features), extractor.digest, origin)


def reference_of_statistics(path: Path, extractor: Extractor) -> Reference:
    """Make a reference from a file of statistics that `extractor` gave: mu, sigma, and mu_s, sigma_s if they exist.

    Images in the same file, in any axis order, give the pool features. Without images there is no precision and recall;
    without mu_s there is no sFID. DataError if the number of features is not that of the extractor.
    """
    names = member_names(path)
    pool = read_moments(path, *STATISTICS[:2])
    spatial = read_moments(path, *STATISTICS[2:]) if STATISTICS[2] in names else None
    require_width(path, pool, width_of(extractor))
    features = None
    if any(name in names for name in ARRAYS):
        features = np.concatenate([extractor(block).pool for block in open_images(path, least=LEAST).blocks()])
    origin = origin_of(path.name, sha256_file(path), extractor)
    return Reference(pool, spatial, features, extractor.digest, origin)


def make_reference(path: Path, extractor: Extractor, *, images_only: bool = False) -> Reference:
    """Make a reference from a folder of PNGs, an npz of images, or an npz of statistics.

    With `images_only` the statistics in an npz are not used.
    """
    if not images_only and not path.is_dir() and set(STATISTICS[:2]) <= set(member_names(path)):
        return reference_of_statistics(path, extractor)
    return reference_of_images(open_images(path, least=LEAST), extractor)


def width_of(extractor: Extractor) -> int:
    """Number of pool features that an extractor gives."""
    for shape in PROBES:
        try:
            return int(extractor(np.zeros((1, *shape), np.uint8)).pool.shape[1])
        except DataError:
            continue
    raise DataError(f"{extractor.name}: takes none of the image shapes {PROBES}; give images instead of statistics")


def import_adm_reference(path: Path, extractor: Extractor) -> Reference:
    """Make a reference from an ADM file: its statistics, and the pool features of its images.

    The file holds the images as arr_0 (N, H, W, C) uint8. They are read in small batches. ADM uses these images only
    for precision and recall. The mean and the covariance are those of the whole training set.
    """
    reference = load_reference(path)
    check_adm_images(path)
    pool = [
        extractor(np.ascontiguousarray(rows.transpose(0, 3, 1, 2))).pool
        for rows in stream_member(path, "arr_0", rows=STREAM_ROWS)
    ]
    features = np.concatenate(pool)
    require_width(path, reference.pool, features.shape[1])
    origin = origin_of(path.name, sha256_file(path), extractor)
    return replace(reference, pool_features=features, extractor_digest=extractor.digest, origin=origin)


def check_adm_images(path: Path) -> tuple[int, int]:
    """Height and width of an ADM file's images; DataError unless they are uint8 (N, H, W, C) and enough."""
    if "arr_0" not in (names := member_names(path)):
        raise DataError(
            f"{path}: has no images (arr_0), found {', '.join(names)}; `qdit reference OUT --data {path.name}` takes"
            " statistics without images"
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
    """Raise DataError unless the mean and covariance have `width` features, as the extractor gives."""
    if len(moments.mean) != width:
        raise DataError(
            f"{path}: mu has {len(moments.mean)} features, the extractor gives {width}; use the extractor that the file"
            " was made with"
        )
