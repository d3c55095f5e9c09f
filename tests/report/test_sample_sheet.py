"""`qdit show`: the sheet of a run's samples, of images and of clips, alone and beside full precision."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qdit.core.errors import DataError
from qdit.core.failure import Failure
from qdit.metrics.spoken import calibration_line, checkpoint_line, samples_line
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.quant.folder import write_failure
from qdit.report.pages.sample_sheet import COLUMNS, GAP, LINE, MARGIN, TILE, show
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import SampleJob, sample_checkpoint
from tests.small_models import random_dit
from tests.small_video_models import TINY_VIDEO, random_stdit3

CLIPS = FlowProtocol(frames=8, height=16, width=16, fps=8, steps=2, cfg_scale=2.0, shift=2.5)
PROMPTS = [("a red 2, moving left", number) for number in range(2)]
SMALL_CLIPS = dataclasses.replace(TINY_VIDEO, depth=1, patch_size=4, text_width=64, text_tokens=9, pixels_per_cell=1)


def images_of(folder: Path, seed: int, *, count: int = 10) -> Path:
    """Samples of a small DiT with its own weights."""
    save_checkpoint(folder / "checkpoint", Quantized(random_dit(seed=seed)), {})
    sample_checkpoint(SampleJob(folder / "checkpoint", folder / "samples", Protocol(steps=2), count, 8))
    return folder / "samples"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Samples of two models with the same noise, and of one with fewer images."""
    root = tmp_path_factory.mktemp("images")
    return [images_of(root / "a", 0), images_of(root / "b", 1), images_of(root / "c", 1, count=4)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Clips of two models with the same noise and prompts."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("clips")
        model = random_stdit3(SMALL_CLIPS, seed=seed)
        save_checkpoint(folder / "checkpoint", Quantized(model), {})
        sample_checkpoint(SampleJob(folder / "checkpoint", folder / "samples", CLIPS, chunk=2, prompts=PROMPTS))
        folders.append(folder / "samples")
    return folders


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_grid_has_every_image_at_its_place(images: list[Path], tmp_path: Path) -> None:
    shown = show(images[0], tmp_path / "sheet.png")
    assert (shown.count, shown.total, shown.kind, shown.error) == (10, 10, "images", None)
    sheet = pixels(tmp_path / "sheet.png")
    assert sheet.shape == (3 * MARGIN + 2 * (LINE + TILE), 2 * MARGIN + COLUMNS * (TILE + GAP) - GAP, 3)
    ninth = np.load(images[0] / "00001.npz")["images"][0, 0]
    top, left = 2 * MARGIN + LINE + TILE + LINE, MARGIN
    np.testing.assert_array_equal(sheet[top : top + TILE : 8, left : left + TILE : 8, 0], ninth)


def test_beside_full_precision_the_third_row_is_the_difference(images: list[Path], tmp_path: Path) -> None:
    shown = show(images[0], tmp_path / "sheet.png", beside=images[1], count=3)
    files = [[np.load(folder / f"0000{n}.npz")["images"] for n in (0, 1)] for folder in images[:2]]
    a, b = (np.concatenate(chunks) / 255 for chunks in files)
    assert shown.count == 3 and shown.error == pytest.approx(float(((a - b) ** 2).mean()))
    show(images[0], tmp_path / "same.png", beside=images[0], count=3)
    same = pixels(tmp_path / "same.png")
    row = MARGIN + LINE + 2 * (TILE + GAP)
    assert same[row + 1 : row + TILE - 1, -MARGIN - TILE + 1 : -MARGIN - 1].max() == 0
    assert pixels(tmp_path / "sheet.png")[row + 1 : row + TILE - 1, -MARGIN - TILE + 1 : -MARGIN - 1].max() > 0


def test_clips_show_their_frames_in_a_row(clips: list[Path], tmp_path: Path) -> None:
    shown = show(clips[0], tmp_path / "sheet.png")
    assert (shown.count, shown.kind) == (2, "clips")
    sheet = pixels(tmp_path / "sheet.png")
    assert sheet.shape[:2] == (3 * MARGIN + 2 * (LINE + TILE), 2 * MARGIN + 8 * (TILE + GAP) - GAP)
    last = np.load(clips[0] / "00000.npz")["frames"][0, :, 7]
    area = sheet[MARGIN + LINE : MARGIN + LINE + TILE : 4, -MARGIN - TILE : -MARGIN : 4]
    np.testing.assert_array_equal(area.transpose(2, 0, 1), last)


def test_clips_beside_full_precision(clips: list[Path], tmp_path: Path) -> None:
    shown = show(clips[0], tmp_path / "sheet.png", beside=clips[1], count=1)
    assert shown.count == 1 and shown.error is not None and shown.error > 0
    assert pixels(tmp_path / "sheet.png").shape[0] == 2 * MARGIN + LINE + 3 * (TILE + GAP) - GAP


def test_what_cannot_be_compared_or_is_not_there_is_one_line(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a run of 4 images, 10 are expected"):
        show(images[0], tmp_path / "sheet.png", beside=images[2])
    with pytest.raises(DataError, match=r"has no shard-\*\.json"):
        show(tmp_path, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_steps_say_what_they_made(images: list[Path], clips: list[Path], tmp_path: Path) -> None:
    folder = images[0].parent / "checkpoint"
    assert samples_line(images[0]) == f"{images[0]}: 10 of 10 images, ddim, 2 steps"
    assert samples_line(clips[0]) == f"{clips[0]}: 2 of 2 clips, 2 steps"
    assert checkpoint_line(folder).startswith(f"{folder}: ") and checkpoint_line(folder).endswith(" MB")
    write_failure(tmp_path / "failed", Failure("quantize", "failed", "too hot"))
    assert checkpoint_line(tmp_path / "failed").endswith("no checkpoint: failed in quantize: too hot")


def test_calibration_data_say_their_number_and_kind(tmp_path: Path) -> None:
    from qdit.sampling.calibration_set import save_calibration
    from tests.small_models import calibration_set

    save_calibration(tmp_path / "set.safetensors", calibration_set("ndtc"), {})
    assert "noisy images of 1 × 8 × 8, kind ndtc, " in calibration_line(tmp_path / "set.safetensors")
