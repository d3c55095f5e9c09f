"""Images from anywhere: every kind of input, every fault in one line, and pairing only where the files state it."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qdit.core.errors import DataError
from qdit.core.files import load_arrays, read_json, save_arrays
from qdit.metrics.export import export_images
from qdit.metrics.extraction import extract_file
from qdit.metrics.imported import import_images
from qdit.metrics.job import EvaluateJob, RunName
from qdit.metrics.run import Evaluator, evaluate_run
from qdit.metrics.samples import listed_shards
from qdit.metrics.statement import FILE, MEMBER
from qdit.mini.reference import make_mini_reference
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import SampleJob, sample_checkpoint
from tests.small_models import random_dit

EXTRACTOR, WEIGHTS = "digit-classifier", Path("weights/digit-classifier.safetensors")
COUNT = 10
STATEMENT = {"sampler": "ddim", "steps": 2, "cfg_scale": 1.0, "seed": 0}
RECORD = dict.fromkeys(("options", "allocation_sha256", "code", "weights_sha256"))
RECORD |= {"method": "fp", "weight_bits": 16, "activation_bits": 16, "scope": "common", "calibration_sha256": {}}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of full precision with their features, and the statistics of the digits beside them."""
    root = tmp_path_factory.mktemp("full")
    save_checkpoint(root / "fp", Quantized(random_dit()), RECORD)
    sample_checkpoint(
        SampleJob(root / "fp", root / "samples", Protocol(steps=2, cfg_scale=1.0), samples=COUNT, chunk=4)
    )
    extract_file(root / "samples", None, EXTRACTOR, WEIGHTS)
    make_mini_reference("digits", EXTRACTOR, WEIGHTS, root / "reference.npz")
    return root


@pytest.fixture
def pngs(full: Path, tmp_path: Path) -> Path:
    """The images of full precision as a folder of PNGs that states its protocol."""
    export_images(full / "samples", tmp_path / "pngs")
    return tmp_path / "pngs"


def png16(mode: int, side: int = 8) -> bytes:
    """A PNG with 16 bits of a channel: grey (mode 0) or RGB (mode 2), which Pillow reads without a word as 8 bits."""
    channels = {0: 1, 2: 3}[mode]
    rows = b"".join(b"\0" + bytes(2 * channels * side) for _ in range(side))

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 16, mode, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def save(path: Path, mode: str, side: int = 8) -> None:
    Image.new(mode, (side, side)).save(path)


def every(folder: Path, mode: str, side: int = 8) -> None:
    for file in folder.glob("*.png"):
        save(file, mode, side)


def duplicate(folder: Path) -> None:
    (folder / "1.png").write_bytes((folder / "00002.png").read_bytes())


def link(folder: Path) -> None:
    (folder / "00003.png").unlink()
    (folder / "00003.png").symlink_to(folder / "00002.png")


def empty(folder: Path) -> None:
    for file in folder.glob("*.png"):
        file.unlink()


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing index": (
        lambda f: (f / "00004.png").rename(f / "00010.png"),
        r"image 4 is missing, the file in its place is 00005.png; name the images 00000.png",
    ),
    "names that are no indices": (
        lambda f: (f / "00000.png").rename(f / "a.png"),
        r"image 0 is missing, the file in its place is ",
    ),
    "other size": (lambda f: save(f / "00002.png", "L", 16), r"shape \(1, 16, 16\), the first .* has \(1, 8, 8\)"),
    "other resolution": (lambda f: every(f, "L", 16), r"width\) \(1, 16, 16\), full precision makes \(1, 8, 8\)"),
    "colours": (lambda f: every(f, "RGB"), r"width\) \(3, 8, 8\), full precision makes \(1, 8, 8\)"),
    "transparency": (lambda f: save(f / "00000.png", "RGBA"), r"a PNG of mode RGBA, allowed are 8-bit grey \(L\) and"),
    "a palette": (lambda f: save(f / "00000.png", "P"), r"a PNG of mode P"),
    "16 bits": (lambda f: (f / "00000.png").write_bytes(png16(0)), r"with 16 bits, allowed are 8-bit grey"),
    "16 bits in colour": (lambda f: (f / "00001.png").write_bytes(png16(2)), r"RGB with 16 bits, allowed are"),
    "no PNG": (lambda f: (f / "00001.png").write_bytes(b"JFIF"), r"00001.png: not a readable PNG"),
    "empty": (empty, r"holds no \*.png; give a folder of PNGs or an npz with images"),
    "too few": (lambda f: (f / "00009.png").unlink(), r"holds 9 images, full precision has 10; give as many"),
    "twice one number": (duplicate, r"holds (00001|1).png and (00001|1).png, which have one number"),
    "a link": (link, r"00003.png: is a link; copy the image itself"),
    "another seed": (
        lambda f: (f / FILE).write_text(json.dumps(STATEMENT | {"seed": 1})),
        r"states seed 1, full precision has 0; give samples of that protocol, or remove the statement",
    ),
    "half a statement": (
        lambda f: (f / FILE).write_text('{"sampler": "ddim", "steps": 2}'),
        r"states a protocol without cfg_scale, seed; write ",
    ),
    "no statement but a list": (lambda f: (f / FILE).write_text("[]"), r"states a protocol without everything"),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_a_fault_of_a_folder_is_one_line(full: Path, pngs: Path, tmp_path: Path, fault: str) -> None:
    change, words = FOLDER_FAULTS[fault]
    change(pngs)
    with pytest.raises(DataError, match=words) as refused:
        import_images(pngs, tmp_path / "imported", chunk=4, like=full / "samples")
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "imported").glob("shard-*.json"))


NPZ_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "floating point": ({"arr_0": np.zeros((COUNT, 8, 8, 1), np.float32)}, "images are float32, allowed is uint8"),
    "pickles": ({"arr_0": np.array([{}] * COUNT)}, "without pickles"),
    "no image axis": ({"arr_0": np.zeros((COUNT, 8, 8, 4), np.uint8)}, "no axis of 1 or 3 channels"),
    "too many": ({"arr_0": np.zeros((COUNT + 1, 8, 8, 1), np.uint8)}, "holds 11 images, full precision has 10"),
    "resolution": ({"arr_0": np.zeros((COUNT, 4, 4, 1), np.uint8)}, r"\(1, 4, 4\), full precision makes \(1, 8, 8\)"),
    "no images": ({"a": np.zeros(1, np.uint8), "b": np.zeros(1, np.uint8)}, "has no images"),
    "labels": ({"arr_0": np.zeros((COUNT, 8, 8, 1), np.uint8), "arr_1": np.zeros(3)}, "arr_1 is float64"),
    "statement": (
        {"arr_0": np.zeros((COUNT, 8, 8, 1), np.uint8), MEMBER: np.array("{")},
        "protocol is not JSON",
    ),
    "statement of numbers": (
        {"arr_0": np.zeros((COUNT, 8, 8, 1), np.uint8), MEMBER: np.arange(3)},
        r"protocol is int64 \(3,\), allowed is JSON as one text",
    ),
}


@pytest.mark.parametrize("fault", NPZ_FAULTS)
def test_a_fault_of_an_npz_is_one_line(full: Path, tmp_path: Path, fault: str) -> None:
    arrays, words = NPZ_FAULTS[fault]
    np.savez(tmp_path / "images.npz", **arrays)  # its own writer: ours refuses pickles
    with pytest.raises(DataError, match=words) as refused:
        import_images(tmp_path / "images.npz", tmp_path / "imported", chunk=4, like=full / "samples")
    assert "\n" not in str(refused.value)


def test_the_number_of_images_can_be_asked_for(pngs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 10 images, 12 are expected"):
        import_images(pngs, tmp_path / "imported", chunk=4, count=12)


def scored(full: Path, source: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """metrics.json of images that were imported beside full precision, as the workflow does it."""
    folder = tmp_path / "imported"
    import_images(source, folder, chunk=4, like=full / "samples")
    extract_file(folder, None, EXTRACTOR, WEIGHTS)
    name = RunName(setting="a", model="b", form="natural", label="other")
    claimed = {"weight_bits": 4, "activation_bits": 8, "scope": "common"}
    job = EvaluateJob(folder, None, tmp_path / "m.json", name, full / "samples", 20, claimed=claimed, **changes)
    evaluate_run(job, Evaluator(EXTRACTOR, WEIGHTS, "digits", full / "reference.npz"))
    content: dict[str, Any] = read_json(tmp_path / "m.json")
    return content


@pytest.mark.parametrize("kind", ["pngs", "images.npz"])
def test_our_own_export_states_its_protocol_and_comes_back_paired(full: Path, tmp_path: Path, kind: str) -> None:
    export_images(full / "samples", tmp_path / kind)
    content = scored(full, tmp_path / kind, tmp_path)
    assert content["metrics"]["mse_fp"] == 0 and abs(content["metrics"]["fd_fp"]) < 1e-6
    assert content["protocol"]["stated"] == STATEMENT and content["protocol"]["sampler"] == "imported"
    assert content["run"] | {"weight_bits": 4, "activation_bits": 8, "scope": "common"} == content["run"]


def test_images_that_state_nothing_have_no_paired_metrics(full: Path, pngs: Path, tmp_path: Path) -> None:
    (pngs / FILE).unlink()
    (pngs / "00004.png").rename(pngs / "10.png")  # any names do where nothing is paired
    content = scored(full, pngs, tmp_path)
    assert content["metrics"]["fd_fp"] is None is content["metrics"]["mse_fp"] and content["metrics"]["fid"] > 0
    assert "stated" not in content["protocol"] and "fd_fp" not in content["intervals"]


def test_images_stand_in_the_order_of_their_indices(full: Path, tmp_path: Path) -> None:
    folder = tmp_path / "numbered"
    folder.mkdir()
    for number in range(COUNT + 2):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / f"{number}.png")
    import_images(folder, tmp_path / "imported", chunk=4)
    chunks = [load_arrays(tmp_path / "imported" / f"{number:05d}.npz")["images"] for number in range(3)]
    assert np.concatenate(chunks)[:, 0, 0, 0].tolist() == list(range(COUNT + 2))
    assert listed_shards(tmp_path / "imported")[0].mode == "imported"


def test_adm_batches_are_read_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    save_arrays(tmp_path / "adm.npz", {"arr_0": images, "arr_1": np.arange(5)})
    import_images(tmp_path / "adm.npz", tmp_path / "imported", chunk=5)
    chunk = load_arrays(tmp_path / "imported/00000.npz")
    assert (chunk["images"] == images.transpose(0, 3, 1, 2)).all() and chunk["labels"].tolist() == list(range(5))
