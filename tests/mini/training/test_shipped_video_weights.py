"""The shipped video model makes the clips that it is asked for, and the recorded study is of its files."""

import json
from pathlib import Path

import pytest
import torch

from qdit.core.files import sha256_file
from qdit.mini.training.video_quality import BARS, measure
from qdit.mini.vbench.observation import load_observer
from qdit.models.loading import load_model

ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT / "weights" / "stdit3-moving-digits-natural.safetensors"
INSTRUMENTS = ROOT / "weights" / "mini-vbench.safetensors"


def study() -> dict:
    return json.loads((ROOT / "results" / "studies" / "stdit3-moving-digits-quality.json").read_text())


def test_the_recorded_study_is_of_the_shipped_files_and_meets_the_bars():
    found = study()
    assert found["weights"]["sha256"] == sha256_file(WEIGHTS)
    assert found["instruments"]["sha256"] == sha256_file(INSTRUMENTS)
    assert found["figures"]["clips"] == 200 and found["figures"]["bars"] == BARS
    assert all(found["figures"]["fractions"][name] >= bar for name, bar in BARS.items())


def test_few_clips_already_meet_the_bars():
    figures, clips = measure(load_model(WEIGHTS), load_observer(INSTRUMENTS), count=16, full=False)
    assert clips.shape == (16, 3, 8, 16, 16)
    assert all(figures["fractions"][name] >= bar for name, bar in BARS.items()), figures["fractions"]


def test_the_salient_form_is_the_same_function():
    natural, salient = (
        load_model(Path(str(WEIGHTS).replace("natural", form))).float() for form in ("natural", "salient")
    )
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 3, 8, 16, 16, generator=draw), torch.randn(2, 6, natural.config.text_width, generator=draw)
    timestep = torch.tensor([100.0, 900.0])
    with torch.inference_mode():
        expected, found = natural(x, timestep, text), salient(x, timestep, text)
    assert (found - expected).norm() / expected.norm() == pytest.approx(0, abs=0.02)  # both are stored in float16
    assert not any(
        torch.equal(a, b) for a, b in zip(natural.t_block.parameters(), salient.t_block.parameters(), strict=True)
    )
