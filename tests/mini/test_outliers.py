"""The outlier study: values against closed forms, continued studies, and the page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdit.core.errors import CheckpointError, DataError
from qdit.core.files import read_json, save_tensors, write_json
from qdit.metrics.features import Features
from qdit.mini import outliers
from qdit.mini.outliers import Plan, kurtosis, of_activations, of_weights, snapshot_files, study_snapshots
from qdit.mini.outliers_page import write_page
from qdit.models.roles import linear_of, select
from tests.small_models import TINY, calibration_set, random_dit

PLAN = Plan(bits=("w4a8",), images=8, steps=4, calibration=8)


class Means:
    """An extractor of two pool features: mean and deviation of an image."""

    name, digest, classes_are_labels = "means", "d" * 64, False

    def __call__(self, images: np.ndarray) -> Features:
        flat = images.reshape(len(images), -1).astype(np.float32)
        pool = np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)
        return Features(pool, pool, pool)


@pytest.fixture
def snapshots(tmp_path: Path) -> Path:
    """Three snapshots of a training."""
    folder = tmp_path / "snapshots"
    for number in (1, 2, 4):
        state = {f"average.{key}": value for key, value in random_dit(TINY, seed=number).named_parameters()}
        save_tensors(folder / f"{number:06d}.safetensors", state, {"model": TINY.to_dict(), "iteration": number})
    return folder


def test_kurtosis_of_known_distributions() -> None:
    draw = torch.Generator().manual_seed(0)
    assert kurtosis(torch.randn(400_000, generator=draw) * 3 + 5) == pytest.approx(3, abs=0.05)
    assert kurtosis(torch.rand(400_000, generator=draw)) == pytest.approx(1.8, abs=0.02)
    assert kurtosis(torch.tensor([-1.0, 1.0])) == 1
    assert kurtosis(torch.tensor([0.0] * 99 + [1.0])) == pytest.approx(98.0101, abs=1e-3)  # (1 − 3pq) / pq


def test_the_spread_of_weights_is_that_of_their_input_channels() -> None:
    model = random_dit()
    (site, *_) = select(model.sites(), roles=("fc1",))
    with torch.no_grad():
        weight = linear_of(model, site).weight
        weight.copy_(torch.sign(weight))
        weight[:, 7] *= 12
    found = of_weights(model)
    assert found["fc1"]["spread"][0] == pytest.approx(12)
    assert {role: len(of["kurtosis"]) for role, of in found.items()} == dict.fromkeys(
        ("qkv", "attn_out", "fc1", "fc2"), 2
    )


def test_inputs_of_all_batches_count() -> None:
    data = calibration_set("trajectory", samples=24)
    model = random_dit()
    seen: list[torch.Tensor] = []
    (site, *_) = select(model.sites(), roles=("qkv",))
    handle = linear_of(model, site).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(*next(data.batches(24)))
    handle.remove()
    rows = seen[0].flatten(0, 1).double()
    maxima = rows.abs().amax(dim=0)
    found = of_activations(model, data)["qkv"]
    assert found["spread"][0] == pytest.approx(float(maxima.max() / maxima.median()), rel=1e-4)
    centred = rows - rows.mean()
    expected = float((centred**4).mean() / (centred**2).mean() ** 2)
    assert found["kurtosis"][0] == pytest.approx(expected, rel=1e-4)


def test_a_study_continues_and_takes_later_snapshots(
    snapshots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, measured = tmp_path / "study.json", []
    original = outliers.study_snapshot

    def counted(path: Path, *arguments: Any) -> dict[str, Any]:
        measured.append(path.stem)
        return original(path, *arguments)

    monkeypatch.setattr(outliers, "study_snapshot", counted)
    study_snapshots(snapshot_files(snapshots, (4, 1)), PLAN, Means(), out, name="tiny")
    study = study_snapshots(snapshot_files(snapshots), PLAN, Means(), out, name="tiny")
    assert measured == ["000001", "000004", "000002"]
    assert [entry["iteration"] for entry in study["snapshots"]] == [1, 2, 4]
    assert read_json(out) == study
    assert [(row["method"], row["bits"]) for row in study["snapshots"][0]["damage"]] == [
        ("rtn", "w4a8"),
        ("q-dit", "w4a8"),
    ]
    study_snapshots(snapshot_files(snapshots, (1,)), replace(PLAN, images=4), Means(), out, name="tiny")
    assert measured[3:] == ["000001"], "another plan measures again"
    described = {"command": "qdit bench outliers", "commit": "01ad14c69d2e+", "noun": "digit"}
    write_page({**study, **described}, tmp_path / "page.md", tmp_path / "images" / "figure.svg")
    page = (tmp_path / "page.md").read_text()
    assert "quantize: digits\n" in page and "How much do RTN and Q-DiT damage" in page
    assert "has 3 snapshots" in page and "| 4 |" in page and "](images/figure.svg)" in page
    assert "`qdit bench outliers`; commit 01ad14c69d2e with uncommitted changes." in page
    assert "RTN W4A8" in (tmp_path / "images" / "figure.svg").read_text()
    worst, when = min((entry["damage"][0]["psnr_fp"], entry["iteration"]) for entry in study["snapshots"])
    final = study["snapshots"][-1]["damage"][0]["psnr_fp"]
    expected = f"PSNR-FP of RTN at W4A8 is lowest at iteration {when}: {worst:.1f} dB. At the end it is {final:.1f} dB."
    if when == 4:
        expected = f"PSNR-FP of RTN at W4A8 is lowest at the end: {final:.1f} dB."
    assert expected in page and page.count("changes most in") == 4


@pytest.mark.parametrize(
    "content", [[], {"metrics": {}}, {"snapshots": {}}, {"snapshots": [1]}, {"snapshots": [{"sha256": "a"}]}]
)
def test_another_file_is_not_replaced_by_a_study(snapshots: Path, tmp_path: Path, content: Any) -> None:
    out = tmp_path / "power.json"
    write_json(out, content)
    with pytest.raises(DataError, match=r"power\.json: holds no study of outliers, which this command would replace"):
        study_snapshots(snapshot_files(snapshots), PLAN, Means(), out, name="tiny")
    assert read_json(out) == content


def test_what_is_no_snapshot_is_refused(snapshots: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no snapshots; give the folder"):
        snapshot_files(tmp_path / "none")
    with pytest.raises(DataError, match="found no snapshots of these iterations"):
        snapshot_files(snapshots, (3,))
    with pytest.raises(DataError, match="found no snapshot of iteration 3; it has 1, 2, 4; take of these"):
        snapshot_files(snapshots, (4, 3))
    with pytest.raises(DataError, match="method 'rtm': allowed are rtn, q-dit, ptq4dit; did you mean 'rtn'"):
        Plan(methods=("rtm",))
    save_tensors(snapshots / "000008.safetensors", {"weight": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="not a training checkpoint of a DiT"):
        study_snapshots(snapshot_files(snapshots, (8,)), PLAN, Means(), tmp_path / "out.json", name="tiny")
