"""The step that makes lpips.npz from samples and full-precision samples. It computes LPIPS with torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.files import save_arrays, sha256_file
from qdit.metrics.job import sampling_failure
from qdit.metrics.paired import aligned
from qdit.metrics.perceptual import load_lpips, lpips_per_image
from qdit.metrics.perceptual_file import LpipsOrigin, digest_of_folder, write_values
from qdit.metrics.run import images_of
from qdit.metrics.samples import listed_shards


@dataclass(frozen=True)
class LpipsWeights:
    """Name of the network (`alex` or `vgg`) and the paths of its two weights files."""

    network: str
    backbone: Path
    linear: Path


def score_run(samples: Path, fp_samples: Path, out: Path, weights: LpipsWeights, *, device: str = "cpu") -> int | None:
    """Write the LPIPS of each image of a run to the full-precision image of the same index.

    The function returns the number of images. The images are read chunk by chunk. If the samples of one run could not
    be made, the file has no values and the result is None. Raises DataError for images of other numbers or sizes.
    """
    images = listed_shards(samples)[0].images
    if sampling_failure(samples, images) or sampling_failure(fp_samples, images):
        save_arrays(out, {})
        return None
    model = load_lpips(weights.network, weights.backbone, weights.linear, device=device)
    pairs = aligned(images_of(samples, images), images_of(fp_samples, images))
    values = np.concatenate([lpips_per_image(model, batch, fp_batch) for batch, fp_batch in pairs])
    origin = LpipsOrigin(
        network=weights.network,
        backbone_sha256=sha256_file(weights.backbone),
        linear_sha256=sha256_file(weights.linear),
        samples=digest_of_folder(samples, images),
        fp_samples=digest_of_folder(fp_samples, images),
        code=code_digest("qdit.metrics.perceptual_run"),
    )
    write_values(out, values, origin)
    return len(values)
