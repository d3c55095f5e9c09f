"""FVD of the paper profile: Fréchet distance between the I3D features of two sets of clips (Unterthiner et al. 2018).

The network is StyleGAN-V's TorchScript file of I3D (Kinetics-400). Such a file is a program. It is opened only if it
has the given sha256, and only by a separate process (`qdit.metrics.vbench.i3d_process`).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qdit.core.errors import CheckpointError, DataError
from qdit.core.files import load_arrays, save_arrays, sha256_file
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.metrics.vbench import i3d_process

LEAST_FRAMES = 10
"""Least number of frames of a clip: I3D halves the time axis three times after its first stride."""
HEX_DIGITS = 64
PASSED_ON = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
"""Environment variables that the other process gets."""


@dataclass(frozen=True)
class I3d:
    """Function from clips to I3D features (N, 400), taken before the softmax; `weights` is the TorchScript file of I3D.

    The complete sha256 of the file must be given.
    """

    weights: Path
    sha256: str
    batch: int = 4

    def __post_init__(self) -> None:
        if len(self.sha256) != HEX_DIGITS:
            raise CheckpointError(
                f"{self.weights}: sha256 {self.sha256!r} has {len(self.sha256)} digits, allowed are all {HEX_DIGITS}: a"
                " TorchScript file is a program; look at where you have it from and give its digest"
            )
        if not self.weights.is_file():
            raise CheckpointError(f"{self.weights}: missing; `qdit fetch` with the profile that needs it downloads it")
        if (digest := sha256_file(self.weights)) != self.sha256:
            raise CheckpointError(
                f"{self.weights}: sha256 is {digest[:12]}…, expected {self.sha256[:12]}…: another file, or damaged; it"
                " is not opened"
            )

    def __call__(self, clips: Iterable[np.ndarray]) -> np.ndarray:
        """Features (N, 400) float64 of clips uint8 (T, H, W, 3) of one shape, T ≥ 10, N ≥ 1."""
        with tempfile.TemporaryDirectory(prefix="qdit-i3d-") as folder:
            count, shape = 0, None
            for clip in clips:
                shape = require_clip(clip, shape)
                save_arrays(Path(folder, f"{count:06d}.npz"), {"frames": clip})
                count += 1
            if not count:
                raise DataError("no clips to take I3D features of; sample some first")
            return self.computed(Path(folder), count)

    def computed(self, folder: Path, count: int) -> np.ndarray:
        """Let the other process compute the features of the clips in a folder."""
        out = folder / "features.npz"
        command = [sys.executable, "-I", i3d_process.__file__, str(self.weights.resolve()), self.sha256]
        command += [str(folder), str(out), str(self.batch)]
        surroundings = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise DataError(f"{self.weights}: the I3D process failed: {lines[-1][:300]}")
        features = load_arrays(out)["features"].astype(np.float64)
        if features.ndim != 2 or len(features) != count or not np.isfinite(features).all():
            raise DataError(
                f"{self.weights}: gives {features.shape} for {count} clips, allowed are finite features (clips,"
                " features); this is not the I3D file that FVD is measured with"
            )
        return features


def require_clip(clip: np.ndarray, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the shape of a clip.

    DataError unless it is uint8 (T, H, W, 3) with T ≥ 10, and equal to a given `shape`.
    """
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or len(clip) < LEAST_FRAMES:
        raise DataError(
            f"I3D: a clip is {clip.dtype} {clip.shape}, allowed is uint8 (frames, height, width, 3) with at least"
            f" {LEAST_FRAMES} frames; mFVD is for shorter ones"
        )
    if shape is not None and clip.shape != shape:
        raise DataError(f"I3D: clips of {clip.shape} and {shape}; all must have one shape")
    return clip.shape


def fvd(extractor: I3d, clips: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> float:
    """FVD between two sets of at least two clips each.

    It is finite even for fewer clips than features, such as Q-DiT's 100 clips with 400 features.
    """
    return frechet_distance(moments(extractor(clips)), moments(extractor(others)))
