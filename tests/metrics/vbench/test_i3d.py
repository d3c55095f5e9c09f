"""FVD with a small TorchScript network saved here in the place of I3D: digests, preprocessing, few clips."""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qdit.core.errors import CheckpointError, DataError
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import Moments, moments
from qdit.metrics.vbench import i3d_process
from qdit.metrics.vbench.i3d import I3d, fvd
from tests.preloaded import python

FEATURES = 24


class StandIn(torch.nn.Module):
    """Called as StyleGAN-V's file is: means of random mixtures of rescaled, resized frames."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv3d(3, FEATURES, (3, 2, 2))

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if resize:
            x = torch.nn.functional.interpolate(x, (x.size(2), 8, 8), mode="trilinear", align_corners=False)
        if rescale:
            x = 2 * x / 255 - 1
        found = self.mix(x).relu().mean((2, 3, 4))
        return found if return_features else found.softmax(1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[StandIn, Path, str]:
    torch.manual_seed(0)
    made, path = StandIn().eval(), tmp_path_factory.mktemp("i3d") / "i3d.pt"
    torch.jit.script(made).save(str(path))
    return made, path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that opens the file is a fork of one that has torch imported already."""

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        return python(command[1:], environment=env)

    monkeypatch.setattr("qdit.metrics.vbench.i3d.subprocess", SimpleNamespace(run=run))


def some_clips(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, 10, 12, 16, 3), dtype=np.uint8)


def test_features_are_the_networks_own_before_the_softmax(network: tuple[StandIn, Path, str]) -> None:
    made, path, digest = network
    clips = some_clips(5)
    found = I3d(path, digest, batch=2)(iter(clips))
    x = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float()
    with torch.inference_mode():
        expected = made(x, rescale=True, resize=True, return_features=True).double().numpy()
    assert found.dtype == np.float64 and found.shape == (5, FEATURES)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("forked")
def test_fvd_of_fewer_clips_than_features_is_that_of_float64_eigenvalues(network: tuple[StandIn, Path, str]) -> None:
    made, path, digest = network
    a, b = some_clips(6, 1), (some_clips(7, 2) // 2).astype(np.uint8)
    found = fvd(I3d(path, digest), a, b)
    with torch.inference_mode():
        inputs = [torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() for clips in (a, b)]
        rows = [made(x, rescale=True, resize=True, return_features=True).double().numpy() for x in inputs]
    assert found == pytest.approx(by_eigenvalues(*rows), rel=1e-4)
    assert found > 0


def by_eigenvalues(one: np.ndarray, two: np.ndarray) -> float:
    """tr (Σ₁Σ₂)^½ as the sum of roots of the eigenvalues of the product, complex parts dropped (torch-fidelity)."""
    gap = one.mean(axis=0) - two.mean(axis=0)
    first, second = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * roots.sum())


@pytest.mark.parametrize(("count", "size"), [(100, 400), (2, 50), (30, 31)])
def test_rank_deficient_covariances_against_brute_force(count: int, size: int) -> None:
    """In the span of the samples nothing is singular: the distance there, of full rank, is the whole one."""
    draw = np.random.default_rng(size)
    one = draw.normal(size=(count, size)) * draw.uniform(0.1, 3, size)
    two = 0.2 + draw.normal(size=(count, size)) @ (np.eye(size) + draw.normal(size=(size, size)) / size**0.5)
    found = frechet_distance(moments(one), moments(two))
    centred = [rows - rows.mean(axis=0) for rows in (one, two)]
    # tr (Σ₁Σ₂)^½ = ‖X₁X₂ᵀ‖_* / (N − 1): the singular values of a small matrix, no covariance is ever made.
    overlap = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum() / (count - 1)
    gap = one.mean(axis=0) - two.mean(axis=0)
    expected = gap @ gap + sum((rows**2).sum() for rows in centred) / (count - 1) - 2 * overlap
    assert found == pytest.approx(expected, rel=1e-6)
    if count < size:
        assert frechet_distance(moments(one), moments(one)) < 1e-8 * np.trace(moments(one).covariance)


def test_one_common_direction_is_counted_once() -> None:
    direction = np.array([3.0, 4.0, 0.0]) / 5
    a = Moments(np.zeros(3), 4 * np.outer(direction, direction))
    b = Moments(np.zeros(3), 9 * np.outer(direction, direction))
    assert frechet_distance(a, b) == pytest.approx(1.0)


def test_another_file_is_never_opened(network: tuple[StandIn, Path, str], tmp_path: Path) -> None:
    _, path, digest = network
    with pytest.raises(CheckpointError, match="another file, or damaged; it is not opened"):
        I3d(path, "0" * 64)
    with pytest.raises(CheckpointError, match="allowed are all 64"):
        I3d(path, digest[:8])
    with pytest.raises(CheckpointError, match="missing"):
        I3d(tmp_path / "none.pt", digest)
    command = [sys.executable, "-I", i3d_process.__file__, str(path), "0" * 64, str(tmp_path), str(tmp_path / "o"), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is not the file with sha256 000000000000" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("forked")
def test_a_network_that_is_not_i3d_is_refused_in_one_line(tmp_path: Path) -> None:
    class Other(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    path = tmp_path / "other.pt"
    torch.jit.script(Other()).save(str(path))
    with pytest.raises(DataError, match="the I3D process failed") as caught:
        I3d(path, hashlib.sha256(path.read_bytes()).hexdigest())(some_clips(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "no clips"),
        ([some_clips(1)[0, :9]], "at least 10 frames"),
        ([some_clips(1)[0].astype(float)], "allowed is uint8"),
        ([some_clips(1)[0], some_clips(1)[0, :, :8]], "all must have one shape"),
    ],
)
def test_what_i3d_cannot_take_is_refused(
    network: tuple[StandIn, Path, str], clips: list[np.ndarray], message: str
) -> None:
    _, path, digest = network
    with pytest.raises(DataError, match=message):
        I3d(path, digest)(clips)
