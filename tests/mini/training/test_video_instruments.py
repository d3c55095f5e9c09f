"""Training of mini-VBench's networks: labels of real clips, learning, bytes; the shipped ones are accurate."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qdit.core.files import load_tensors
from qdit.mini.data.moving_digits import make_clips, show
from qdit.mini.data.moving_digits_prompts import Scenario
from qdit.mini.training.video_instruments import (
    HIDDEN,
    InstrumentTraining,
    held_out_accuracy,
    held_out_clips,
    labels_of,
    train_instruments,
)
from qdit.mini.vbench.observation import load_observer

SHIPPED = Path(__file__).parents[3] / "weights" / "mini-vbench.safetensors"
SHORT = InstrumentTraining(
    clips=96, variants=4, frame_epochs=2, clip_epochs=2, quality_epochs=1, aesthetic_epochs=1, batch_size=32
)
FLOORS = {"cell": 0.95, "digit": 0.95, "colour": 0.97, "scene": 0.97, "style": 0.97, "motion": 0.97, "tempo": 0.97,
          "retrieval": 0.85, "quality": 0.7, "aesthetic": 0.75}  # fmt: skip
"""Least accuracy of the shipped networks on clips of held-out digits."""


def test_labels_say_where_and_what():
    scenario = Scenario(("2", "4"), ("red", "blue"), "left", "up", "fading")
    clips = show([scenario, replace(scenario, style="sepia"), Scenario(("7",), ("green",), None)], "train", seed=0)
    labels = labels_of(clips)
    assert labels.digits.tolist() == [[2, 3], [2, 3], [5, HIDDEN]]
    assert labels.colours.tolist() == [[0, 2], [HIDDEN, HIDDEN], [1, HIDDEN]]
    (x, y), _ = clips.placements[0].corners
    assert labels.cells[0, 0, 0].tolist() == [(y + 4) // 2, (x + 4) // 2]
    assert labels.cells[0, 0, 7].tolist() == [(y - 7 + 4) // 2, (x + 4) // 2]
    assert labels.visible[0, 0].tolist() == pytest.approx([i / 7 for i in range(8)])


def test_short_training_repeats_itself_to_the_byte(tmp_path):
    torch.manual_seed(1)
    first = train_instruments(tmp_path / "a", config=SHORT, held_out=20)
    torch.manual_seed(2)
    second = train_instruments(tmp_path / "b", config=SHORT, held_out=20)
    assert first.name == "mini-vbench.safetensors"
    assert first.read_bytes() == second.read_bytes()
    metadata = load_tensors(first)[1]
    assert metadata["training"]["clips"] == 96 and set(FLOORS) < set(metadata["held_out_accuracy"])
    assert len(load_observer(first)(make_clips(0, range(2), "train").frames)) == 2


def test_the_shipped_instruments_are_accurate_on_held_out_digits():
    stated = load_tensors(SHIPPED)[1]["held_out_accuracy"]
    assert {name: stated[name] for name, floor in FLOORS.items() if stated[name] < floor} == {}
    accuracy = held_out_accuracy(load_observer(SHIPPED).network, held_out_clips(120))
    for name in FLOORS:
        assert accuracy[name] == pytest.approx(stated[name], abs=0.05), name
