"""A made-up profile and a results folder that looks as if it had been run."""

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from qdit.core.files import save_arrays, sha256_json
from qdit.core.metrics import METRICS
from qdit.core.run import Run
from qdit.quant.folder import with_digest
from qdit.report.pages.build import build_table
from qdit.report.render import sheets
from qdit.workflow.profile_files import merged

FACE = "mini profile: handwritten digits, not ImageNet"
PLAIN, GUIDED = "digits-cfg1.0-s20", "digits-cfg1.5-s20"
MISSING = Run(PLAIN, "natural", "g4w+p4a", "w4a8", "common")
TABLE2_METHODS = ["fp", "rtn", "g4w+p4a", "q-dit"]
TABLE4_METHODS = ["fp", "rtn", "rtn-g16-static", "rtn-g16-dynamic"]


def published_keys(cfg_scale: float) -> dict[str, float]:
    return {"resolution": 256, "steps": 100, "cfg_scale": cfg_scale}


def make_profile() -> dict[str, Any]:
    """As `load_profile` would return it, as far as tables look at it."""
    common = {"form": "natural", "scope": "common", "methods": TABLE2_METHODS}
    table4 = {"setting": GUIDED, "scope": "common", "bits": ["w4a8"], "methods": TABLE4_METHODS}
    return {
        "profile": "mini",
        "seed": 0,
        "face": FACE,
        "miniature": "handwritten digits, not ImageNet",
        "models": {"dit-digits": {"extractor": "digit-classifier", "reference": "digits"}},
        "settings": {
            PLAIN: {"model": "dit-digits", "sampler": "ddim", "steps": 20, "cfg_scale": 1.0},
            GUIDED: {"model": "dit-digits", "sampler": "ddim", "steps": 20, "cfg_scale": 1.5},
        },
        "methods": {
            "fp": {"method": "fp"},
            "rtn": {"method": "rtn"},
            "g4w+p4a": {"method": "g4w+p4a", "options": {"group_size": 16}},
            "q-dit": {"method": "q-dit", "options": {"group_size": 16}},
            "rtn-g16-static": {"method": "rtn", "options": {"group_size": 16, "activation": "static"}},
            "rtn-g16-dynamic": {"method": "rtn", "options": {"group_size": 16, "activation": "dynamic"}},
        },
        "tables": {
            "table2": {
                "kind": "table2",
                "blocks": [
                    {"setting": PLAIN, "bits": ["w6a8", "w4a8"], "published": published_keys(1.0), **common},
                    {"setting": GUIDED, "bits": ["w6a8", "w4a8"], "published": published_keys(1.5), **common},
                    {"setting": PLAIN, "bits": ["w4a4"], **common},
                ],
            },
            "table4": {
                "kind": "table4",
                "blocks": [{"form": "natural", **table4}, {"form": "salient", **table4}],
                "fitted": TABLE4_METHODS[1:],
            },
        },
    }


def make_wide_profile() -> dict[str, Any]:
    """The same with every kind of table, and more methods and settings."""
    wide = yaml.safe_load((Path(__file__).parent / "wide.yaml").read_text(encoding="utf-8"))
    return merged(make_profile(), wide)


@pytest.fixture(scope="session", autouse=True)
def strips_are_encoded_once() -> Iterator[Callable[[Image.Image], bytes]]:
    """Most tests show the samples of the same runs; PNG files of equal images are equal, and take a third of a page.

    The value is the encoder itself, for tests of what it makes.
    """
    encode, files = sheets.png, dict[tuple[Any, ...], bytes]()

    def png(image: Image.Image) -> bytes:
        pixels = hashlib.sha256(image.tobytes()).digest()
        key = image.mode, image.size, pixels, tuple(image.getpalette() or ()), repr(sorted(image.info.items()))
        if key not in files:
            files[key] = encode(image)
        return files[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheets, "png", png)
        yield encode


@pytest.fixture
def profile() -> dict[str, Any]:
    return make_profile()


@pytest.fixture
def wide() -> dict[str, Any]:
    return make_wide_profile()


def all_keys(profile: dict[str, Any]) -> list[Run]:
    """Runs of all tables of the profile, spelled out here independently of the code under test."""
    keys = []
    for table in profile["tables"].values():
        for block in table["blocks"]:
            where = (block["setting"], block["form"])
            keys.append(Run(*where, "fp", "w16a16", block["scope"]))
            for bits in block["bits"]:
                labels = [label for label in block["methods"] if label != "fp"]
                keys += [Run(*where, label, bits, block["scope"]) for label in labels]
    return list(dict.fromkeys(keys))


def damage(key: Run) -> float:
    """0 for full precision, else a made-up but plausible amount of damage."""
    if key.label == "fp":
        return 0.0
    by_bits = {(16, 8): 0.003, (8, 8): 0.01, (6, 8): 0.02, (6, 6): 0.1, (4, 8): 0.3, (4, 4): 4.0, (2, 2): 40.0}
    by_label = {"rtn": 1.0, "g4w+p4a": 0.5, "q-dit": 0.1, "rtn-g16-static": 0.4, "rtn-g16-dynamic": 0.15}
    by_label |= {"ptq4dit": 0.2, "ptq4dit-no-csb": 0.3, "ptq4dit-no-reconstruction": 0.8}
    amount = by_bits[key.weight_bits, key.activation_bits] * by_label.get(key.label, 0.6)
    return amount * (90.0 if key.form == "salient" and key.label == "rtn" else 1.0)


def psnr(key: Run) -> float:
    """PSNR-FP of a quantized run in dB: 30 at a damage of 1, 10 more for a tenth of it."""
    return 30 - 10 * math.log10(damage(key))


def record(key: Run, profile: dict[str, Any]) -> dict[str, Any]:
    """A metrics.json as `qdit evaluate` writes it."""
    setting, entry, hurt = profile["settings"][key.setting], profile["methods"][key.label], damage(key)
    paired: dict[str, float | None] = {"fd_fp": None, "mse_fp": None}
    if key.label != "fp":
        paired = {"fd_fp": hurt, "mse_fp": hurt / 300, "psnr_fp": psnr(key), "ssim_fp": 1 - hurt / 50}
    metrics = {"fid": 2.0 + hurt, "sfid": 3.0 + 2 * hurt, "is": 9.5 - hurt / 10, "precision": 0.9 / (1 + hurt / 10)}
    protocol = {key: setting[key] for key in ("model", "sampler", "steps", "cfg_scale")}
    protocol |= {"images": 1024, "chunk": 64, "seed": 0, "uint8": "truncate(127.5 x + 128)", "decoder": "none"}
    protocol |= {"reference": {"name": "digits", "sha256": "d" * 64}}
    protocol |= {"evaluator": {"name": "digit-classifier", "sha256": "e" * 64}}
    return {
        "run": {
            "setting": key.setting,
            "form": key.form,
            "label": key.label,
            "method": entry["method"],
            "weight_bits": key.weight_bits,
            "activation_bits": key.activation_bits,
            "scope": key.scope,
            "options": entry.get("options", {}),
            "allocation_sha256": None,
        },
        "protocol": protocol,
        "protocol_sha256": sha256_json(protocol),
        "mode": "simulate",
        "backend": "torch",
        "inputs": {
            "weights_sha256": ("a" if key.form == "natural" else "b") * 64,
            "checkpoint_sha256": f"{zlib.crc32(str(key).encode()):08x}" * 8,
            "calibration_sha256": {"trajectory": "c" * 64},
        },
        "code": {"quantize": "1" * 64, "sample": "2" * 64, "evaluate": "3" * 64},
        "packages": {"torch": "2.15.0", "numpy": "2.3.5"},
        "metrics": metrics | paired | {"recall": 0.7, "class_accuracy": 0.99},
        "size": {"paper_mb": 4.123 * key.weight_bits / 16, "actual_mb": 4.5 * key.weight_bits / 16},
    }


def of_another_protocol(content: dict[str, Any]) -> None:
    """Make a metrics.json one of images that were rounded in another way, in place."""
    change_protocol(content, uint8="round(127.5 x + 127.5)")


def change_protocol(content: dict[str, Any], **values: Any) -> None:
    """Set parts of a record's protocol, and its digest."""
    content["protocol"] |= values
    content["protocol_sha256"] = sha256_json(content["protocol"])


def save_samples(folder: Path, hurt: float, *, images: int = 32) -> None:
    """A first chunk: the same blots for every run, and noise in proportion to the damage."""
    generator = np.random.default_rng(0)
    clean = generator.integers(0, 256, size=(images, 1, 8, 8))
    noise = generator.standard_normal(clean.shape) * 20 * hurt
    arrays = {"images": np.clip(clean + noise, 0, 255).astype(np.uint8), "labels": np.arange(images) % 10}
    save_arrays(folder / "samples" / "00000.npz", arrays | {"first": np.int64(0), "key": np.array("k")})


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/mini with every run of the profile, made once."""
    folder, profile = tmp_path_factory.mktemp("template"), make_profile()
    for key in all_keys(profile):
        write_record(folder, key, record(key, profile))
        save_samples(key.folder(folder), damage(key))
    return folder


@pytest.fixture
def results(template: Path, tmp_path: Path) -> Path:
    """A copy of results/mini that a test may change."""
    return Path(shutil.copytree(template, tmp_path / "results" / "mini"))


@pytest.fixture(scope="session")
def wide_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/mini with every run of every table of the wide profile."""
    folder, profile = tmp_path_factory.mktemp("wide"), make_wide_profile()
    for key in all_keys(profile):
        write_record(folder, key, record(key, profile))
        save_samples(key.folder(folder), damage(key))
    return folder


@pytest.fixture
def wide_results(wide_template: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(wide_template, tmp_path / "results" / "mini"))


@pytest.fixture(scope="session")
def built(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """File name → text of both tables, the run `MISSING` without any file."""
    folder, profile = tmp_path_factory.mktemp("built"), make_profile()
    results = Path(shutil.copytree(template, folder / "results" / "mini"))
    shutil.rmtree(MISSING.folder(results))
    paths = [path for name in profile["tables"] for path in build_table(profile, name, results, folder / name)]
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


@pytest.fixture
def by_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry in which rows rank by FD-FP."""
    for name, why in (("psnr_fp", ""), ("fd_fp", "of a test")):
        monkeypatch.setitem(METRICS, name, replace(METRICS[name], ranks=why))


def write_record(results: Path, key: Run, value: Any) -> Path:
    path = key.folder(results) / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture
def log_reconstruction() -> Callable[..., dict[str, Any]]:
    """Write a checkpoint whose log says how learned rounding went; later blocks have larger losses."""

    def write(results: Path, key: Run, *, units: int = 7, iterations: int = 500) -> dict[str, Any]:
        steps = range(0, iterations + 1, 25)
        losses = [[0.001 * 2**n * (0.2 + 0.8 * 0.97 ** (step / 5)) for step in steps] for n in range(units)]
        logged = [
            {"name": f"blocks.{n}", "iterations": iterations, "before": loss[0], "after": loss[-1]}
            | {"points": [[step, value] for step, value in zip(steps, loss, strict=True)]}
            for n, loss in enumerate(losses)
        ]
        log = {"reconstruction": {"iterations": iterations, "batch": 32, "units": logged}}
        path = key.folder(results) / "checkpoint" / "config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(with_digest({"method": key.label, "log": log})), encoding="utf-8")
        return log

    return write


@pytest.fixture
def change_record(results: Path, profile: dict[str, Any]) -> Callable[[Run, Callable[[dict[str, Any]], None]], None]:
    """Rewrite one run's metrics.json after an edit."""

    def change(key: Run, edit: Callable[[dict[str, Any]], None]) -> None:
        value = record(key, profile)
        edit(value)
        write_record(results, key, value)

    return change
