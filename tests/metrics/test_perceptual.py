"""LPIPS against the values of its authors' program, on random weights of the real shapes."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.metrics.perceptual import BATCH, Lpips, load_lpips, lpips_per_image
from tests.metrics.lpips_golden import FILE, random_images, random_weights


def loaded(name: str, folder: Path) -> Lpips:
    for file, tensors in zip(("backbone", "linear"), random_weights(name), strict=True):
        save_file(tensors, folder / f"{file}.safetensors")
    return load_lpips(name, folder / "backbone.safetensors", folder / "linear.safetensors")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    return loaded("alex", tmp_path_factory.mktemp("alex"))


@pytest.mark.parametrize("size", [(64, 64), (33, 70)])
def test_values_are_those_of_the_authors_program(network: Lpips, size: tuple[int, int]) -> None:
    agrees(network, size)


@pytest.mark.slow
def test_values_of_vgg_are_those_of_the_authors_program(tmp_path: Path) -> None:
    agrees(loaded("vgg", tmp_path), (33, 70))


def agrees(network: Lpips, size: tuple[int, int]) -> None:
    golden = np.load(FILE)[f"{network.network}-{size[0]}x{size[1]}"]
    np.testing.assert_allclose(lpips_per_image(network, *random_images(*size)), golden, rtol=2e-5)


def test_equal_images_have_distance_zero_and_neighbours_change_nothing(network: Lpips) -> None:
    images, others = (np.concatenate([of] * 7)[: BATCH + 2] for of in random_images(33, 40))
    assert not lpips_per_image(network, images, images).any()
    alone = lpips_per_image(network, images[:5], others[:5])
    np.testing.assert_array_equal(lpips_per_image(network, images, others)[:5], alone)


def test_what_cannot_be_compared_is_refused(network: Lpips) -> None:
    images, others = random_images(33, 40)
    for a, b in ((images, others[:2]), (images[:, :1], others[:, :1]), (images.astype(float), others)):
        with pytest.raises(DataError, match="allowed is uint8"):
            lpips_per_image(network, a, b)
    with pytest.raises(DataError, match="at least 32 are needed on a side"):
        lpips_per_image(network, images[..., :8, :8], others[..., :8, :8])


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    backbone, linear = random_weights("alex")
    save_file(backbone, tmp_path / "backbone.safetensors")
    save_file({"lin0.model.1.weight": linear["lin0.model.1.weight"]}, tmp_path / "linear.safetensors")
    paths = (tmp_path / "backbone.safetensors", tmp_path / "linear.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of LPIPS with alex"):
        load_lpips("alex", *paths)
    with pytest.raises(CheckpointError, match="not the weights of LPIPS with vgg"):
        load_lpips("vgg", *paths)
    with pytest.raises(CheckpointError, match="no such file"):
        load_lpips("alex", tmp_path / "absent.pth", paths[1])
    with pytest.raises(ConfigError, match="allowed are alex, vgg"):
        load_lpips("squeeze", *paths)
