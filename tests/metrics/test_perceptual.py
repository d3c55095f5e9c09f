"""LPIPS against the values of its authors' program, on random weights of the real shapes."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.torch import save_file

from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.core.files import save_arrays
from qdit.metrics.imported import import_images
from qdit.metrics.perceptual_file import FILE as FILE_NAME
from qdit.metrics.perceptual_file import read_values
from tests.lazy import LazyModule

if TYPE_CHECKING:
    from qdit.metrics.perceptual import Lpips

perceptual = LazyModule("qdit.metrics.perceptual")
perceptual_run = LazyModule("qdit.metrics.perceptual_run")
golden_files = LazyModule("tests.metrics.lpips_golden")
"""They import torchvision."""


def loaded(name: str, folder: Path) -> "Lpips":
    for file, tensors in zip(("backbone", "linear"), golden_files.random_weights(name), strict=True):
        save_file(tensors, folder / f"{file}.safetensors")
    return perceptual.load_lpips(name, folder / "backbone.safetensors", folder / "linear.safetensors")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> "Lpips":
    return loaded("alex", tmp_path_factory.mktemp("alex"))


@pytest.mark.parametrize("size", [(64, 64), (33, 70)])
def test_values_are_those_of_the_authors_program(network: "Lpips", size: tuple[int, int]) -> None:
    agrees(network, size)


@pytest.mark.slow
def test_values_of_vgg_are_those_of_the_authors_program(tmp_path: Path) -> None:
    agrees(loaded("vgg", tmp_path), (33, 70))


def agrees(network: "Lpips", size: tuple[int, int]) -> None:
    golden = np.load(golden_files.FILE)[f"{network.network}-{size[0]}x{size[1]}"]
    np.testing.assert_allclose(
        perceptual.lpips_per_image(network, *golden_files.random_images(*size)), golden, rtol=2e-5
    )


def test_equal_images_have_distance_zero_and_neighbours_change_nothing(network: "Lpips") -> None:
    images, others = (np.concatenate([of] * 7)[: perceptual.BATCH + 2] for of in golden_files.random_images(33, 40))
    assert not perceptual.lpips_per_image(network, images, images).any()
    alone = perceptual.lpips_per_image(network, images[:5], others[:5])
    np.testing.assert_array_equal(perceptual.lpips_per_image(network, images, others)[:5], alone)


def test_what_cannot_be_compared_is_refused(network: "Lpips") -> None:
    images, others = golden_files.random_images(33, 40)
    for a, b in ((images, others[:2]), (images[:, :1], others[:, :1]), (images.astype(float), others)):
        with pytest.raises(DataError, match="allowed is uint8"):
            perceptual.lpips_per_image(network, a, b)
    with pytest.raises(DataError, match="at least 32 are needed on a side"):
        perceptual.lpips_per_image(network, images[..., :8, :8], others[..., :8, :8])


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    backbone, linear = golden_files.random_weights("alex")
    save_file(backbone, tmp_path / "backbone.safetensors")
    save_file({"lin0.model.1.weight": linear["lin0.model.1.weight"]}, tmp_path / "linear.safetensors")
    paths = (tmp_path / "backbone.safetensors", tmp_path / "linear.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of LPIPS with alex"):
        perceptual.load_lpips("alex", *paths)
    with pytest.raises(CheckpointError, match="not the weights of LPIPS with vgg"):
        perceptual.load_lpips("vgg", *paths)
    with pytest.raises(CheckpointError, match="no such file"):
        perceptual.load_lpips("alex", tmp_path / "absent.pth", paths[1])
    with pytest.raises(ConfigError, match="allowed are alex, vgg"):
        perceptual.load_lpips("squeeze", *paths)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of samples in chunks of other sizes, and the weights of the network."""
    root = tmp_path_factory.mktemp("runs")
    loaded("alex", root)
    for (name, chunk), images in zip((("run", 2), ("fp", 3)), golden_files.random_images(33, 40), strict=True):
        np.savez(root / f"{name}.npz", arr_0=images.transpose(0, 2, 3, 1))
        import_images(root / f"{name}.npz", root / name, chunk=chunk)
    return root


def weights_in(root: Path) -> "perceptual_run.LpipsWeights":
    return perceptual_run.LpipsWeights("alex", root / "backbone.safetensors", root / "linear.safetensors")


def test_the_file_of_a_run_has_a_value_for_each_image_and_says_what_it_is_of(runs: Path, network: "Lpips") -> None:
    out = runs / "run" / FILE_NAME
    assert perceptual_run.score_run(runs / "run", runs / "fp", out, weights_in(runs)) == 3
    values, made_of = read_values(out, samples=runs / "run", fp_samples=runs / "fp", images=3)
    expected = perceptual.lpips_per_image(network, *golden_files.random_images(33, 40))
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert made_of.weights["network"] == "alex" and len(made_of.weights["linear_sha256"]) == 64
    before = out.read_bytes()
    perceptual_run.score_run(runs / "run", runs / "fp", out, weights_in(runs))
    assert out.read_bytes() == before, "equal inputs give equal bytes"


def test_a_file_of_other_images_is_refused(runs: Path) -> None:
    out = runs / "fp" / FILE_NAME
    perceptual_run.score_run(runs / "fp", runs / "run", out, weights_in(runs))
    with pytest.raises(DataError, match="is not of the images in"):
        read_values(out, samples=runs / "run", fp_samples=runs / "fp", images=3)
    with pytest.raises(DataError, match="run `qdit perceptual"):
        read_values(runs / "absent.npz", samples=runs / "run", fp_samples=runs / "fp", images=3)
    save_arrays(out, {})
    with pytest.raises(DataError, match="not the LPIPS of a run"):
        read_values(out, samples=runs / "fp", fp_samples=runs / "run", images=3)
