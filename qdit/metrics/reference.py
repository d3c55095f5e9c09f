"""What generated images are compared with: statistics of real images, ours or guided-diffusion's (ADM's)."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import save_arrays
from qdit.core.npz import member_names, read_member, stream_member
from qdit.metrics.features import Extractor, Images
from qdit.metrics.statistics import Moments, moments

STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
"""ADM's key names: mean and covariance of the pool and of the spatial features."""
STREAM_ROWS = 64


@dataclass(frozen=True)
class Reference:
    """Moments of real images and, for precision and recall, pool features (N, d) of real images.

    `extractor_digest` says which weights made it; it is empty in ADM's files, which do not say. `pool_features` is
    None for an ADM file as it is loaded: `import_adm_reference` computes them from its images.
    """

    pool: Moments
    spatial: Moments
    pool_features: np.ndarray | None
    extractor_digest: str


def build_reference(images: Images, extractor: Extractor) -> Reference:
    """Reference from uint8 images (N, C, H, W): the same images give the moments and the pool features."""
    features = extractor(images)
    return Reference(moments(features.pool), moments(features.spatial), features.pool, extractor.digest)


def save_reference(path: Path, reference: Reference) -> None:
    """Write an npz with mu, sigma, mu_s, sigma_s, pool and extractor_digest."""
    if reference.pool_features is None:
        raise DataError(f"{path}: a reference without pool features is not saved; use import_adm_reference first")
    arrays = {
        "mu": reference.pool.mean,
        "sigma": reference.pool.covariance,
        "mu_s": reference.spatial.mean,
        "sigma_s": reference.spatial.covariance,
        "pool": reference.pool_features,
        "extractor_digest": np.array(reference.extractor_digest),
    }
    save_arrays(path, arrays)


def load_reference(path: Path) -> Reference:
    """Read a reference of ours or an ADM batch (mu, sigma, mu_s, sigma_s, arr_0); arr_0 is not read.

    Statistics of any floating type become float64. Raises DataError on anything else.
    """
    names = member_names(path)
    missing = [name for name in STATISTICS if name not in names]
    if missing:
        raise DataError(
            f"{path}: has no {', '.join(missing)}, found {', '.join(names)}; allowed are references made by"
            " `qdit` and ADM's VIRTUAL_imagenet*.npz"
        )
    values = [np.asarray(read_member(path, name), np.float64) for name in STATISTICS]
    for mean, covariance in (values[:2], values[2:]):
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not np.isfinite(mean).all():
            raise DataError(
                f"{path}: mean {mean.shape} and covariance {covariance.shape} are not finite statistics of the same"
                " features; make the file again or fetch it again"
            )
    return Reference(
        Moments(values[0], values[1]),
        Moments(values[2], values[3]),
        read_member(path, "pool") if "pool" in names else None,
        str(read_member(path, "extractor_digest")) if "extractor_digest" in names else "",
    )


def import_adm_reference(path: Path, extractor: Extractor) -> Reference:
    """An ADM batch with the pool features of its images arr_0 (N, H, W, C) uint8, streamed from the file.

    ADM uses these images for precision and recall only; the moments are those of the whole training set.
    """
    reference = load_reference(path)
    pool = [
        extractor(np.ascontiguousarray(rows.transpose(0, 3, 1, 2))).pool
        for rows in stream_member(path, "arr_0", rows=STREAM_ROWS)
    ]
    if not pool:
        raise DataError(f"{path}: arr_0 holds 0 images, at least 1 is needed; fetch the file again")
    features = np.concatenate(pool)
    if features.shape[1:] != reference.pool.mean.shape:
        raise DataError(
            f"{path}: mu has {len(reference.pool.mean)} features, {extractor.name} gives {features.shape[1]};"
            " use the extractor that the file was made with"
        )
    return replace(reference, pool_features=features, extractor_digest=extractor.digest)
