"""The step that makes judged-<judge>.npz from samples: a network scores or describes each image. It needs torch."""

import importlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import ConfigError
from qdit.core.files import save_arrays, sha256_file
from qdit.metrics.job import sampling_failure
from qdit.metrics.judged import FILES, JUDGES, READS_PROMPTS, JudgeOrigin, require_judge, write_judged
from qdit.metrics.perceptual_file import digest_of_folder
from qdit.metrics.samples import listed_shards, stream_samples


def judge_run(samples: Path, out: Path, judge: str, files: Mapping[str, Path], *, device: str = "cpu") -> int | None:
    """Let a judge score or describe all images of a run, write the values to `out`, and return the number of images.

    The images are read chunk by chunk. If the samples could not be made, or if the judge reads prompts and the images
    have none, the file has no values and the result is None. `files` are the files that the judge needs. ConfigError
    for an unknown judge or other files than it needs.
    """
    needed = FILES[require_judge(judge)]
    if set(files) != set(needed):
        raise ConfigError(f"judge {judge}: found files {', '.join(files) or 'none'}; it needs {', '.join(needed)}")
    images = listed_shards(samples)[0].images
    if sampling_failure(samples, images):
        save_arrays(out, {})
        return None
    look, values = None, []
    for chunk in stream_samples(samples, images=images):
        if chunk.prompts is None and judge in READS_PROMPTS:
            save_arrays(out, {})
            return None
        look = look or importlib.import_module(JUDGES[judge]).load(files, device)
        values.append(look(chunk.images, chunk.prompts or ()))
    digests = {name: sha256_file(path) for name, path in files.items()}
    code = code_digest("qdit.metrics.judge_run", JUDGES[judge])
    write_judged(out, np.concatenate(values), JudgeOrigin(judge, digests, digest_of_folder(samples, images), code))
    return images
