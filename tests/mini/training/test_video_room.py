"""Room of mini-VBench's scores: none between equal clips, some between real clips and noise; the study of a model."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qdit.core.files import read_json, save_tensors
from qdit.core.metrics import DIMENSIONS
from qdit.core.seeds import Purpose, torch_generator
from qdit.mini.data.moving_digits_prompts import PLACES
from qdit.mini.training.video import MOVING_DIGITS_STDIT3, VideoTrainer, VideoTrainingConfig
from qdit.mini.training.video_instruments import initialize
from qdit.mini.training.video_room import RoomPlan, clips_of, damaged, measure_room, rooms, study_room
from qdit.mini.training.video_shipping import has_places, load_video_model
from qdit.mini.vbench.evaluate import noise_clips, reference_clips
from qdit.mini.vbench.networks import Instruments
from qdit.mini.vbench.observation import Observer
from qdit.mini.vbench.suites import all_prompts
from qdit.quant.sites import prepare_inference
from tests.small_video_models import random_stdit3

INSTRUMENTS = Path(__file__).parents[3] / "weights" / "mini-vbench.safetensors"
TINY = replace(MOVING_DIGITS_STDIT3, hidden_size=24, depth=1, num_heads=2, frequency_size=16)
PLAN = RoomPlan(
    samples=1, chunk=8, calibration=2, calibration_prompts=2, protocol=replace(RoomPlan().protocol, steps=2)
)


@pytest.fixture(scope="module")
def observer() -> Observer:
    network = Instruments()
    initialize(network, torch_generator(0, Purpose.TRAINING))
    return Observer(network, "none")


def test_equal_clips_leave_no_room(observer: Observer) -> None:
    prompts = all_prompts(2)
    clips = reference_clips(prompts, samples=2)
    by_dimension = rooms(observer, clips, clips, prompts, samples=2)
    assert set(by_dimension) == set(DIMENSIONS)
    for room in by_dimension.values():
        assert room.full == room.damaged == room.real and (room.difference, room.low, room.high) == (0, 0, 0)
        assert not room.is_there


def test_noise_leaves_room_where_the_scores_fall(observer: Observer) -> None:
    prompts = all_prompts(2)
    clips = reference_clips(prompts, samples=2)
    by_dimension = rooms(observer, clips, noise_clips(clips), prompts, samples=2)
    for name in ("temporal_flickering", "motion_smoothness"):
        room = by_dimension[name]
        assert room.is_there and 0 < room.low <= room.difference <= room.high
        assert room.difference == pytest.approx(room.full - room.damaged)
    mirrored = rooms(observer, noise_clips(clips), clips, prompts, samples=2)
    assert mirrored["temporal_flickering"].high < 0 and mirrored["temporal_flickering"].is_there


def test_the_damage_is_rtn_at_four_bits_and_clips_keep_their_noise(observer: Observer) -> None:
    model = random_stdit3(TINY)
    prompts = [prompt for prompt in all_prompts(1) if len(prompt.scenario.digits) == 2][:1] + all_prompts(1)[:1]
    full = clips_of(model, prompts, PLAN, places=False)
    assert torch.equal(clips_of(model, prompts, replace(PLAN, chunk=2), places=False).frames, full.frames)
    placed = clips_of(model, prompts, PLAN, places=True).frames
    assert not torch.equal(placed[0], full.frames[0]) and torch.equal(placed[1], full.frames[1])
    worse = clips_of(prepare_inference(damaged(model, PLAN, places=False)), prompts, PLAN, places=False)
    assert worse.prompts == full.prompts and not torch.equal(worse.frames, full.frames)
    full = clips_of(prepare_inference(deepcopy(model)), prompts, PLAN, places=False)
    by_dimension = measure_room(model, observer, places=False, plan=PLAN, prompts=prompts)
    assert by_dimension == rooms(observer, full, worse, prompts, samples=1)


def test_a_checkpoint_says_what_its_words_hold(tmp_path) -> None:
    for places in (False, True):
        config = VideoTrainingConfig(batch_size=2, bfloat16=False, places=places)
        trainer = VideoTrainer(TINY, config, tmp_path / str(places))
        trainer.run(until=1)
        assert has_places(trainer.state.path) is places
    save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {})
    assert has_places(tmp_path / "other.safetensors") is PLACES


@pytest.mark.slow
def test_the_study_is_written(tmp_path) -> None:
    trainer = VideoTrainer(TINY, VideoTrainingConfig(batch_size=2, bfloat16=False), tmp_path)
    trainer.run(until=1)
    by_dimension = study_room(trainer.state.path, INSTRUMENTS, tmp_path / "room.json", command="qdit train video-room")
    study = read_json(tmp_path / "room.json")
    assert study["with_room"] == sum(entry["room"] for entry in study["dimensions"].values())
    assert {name: entry["full"] for name, entry in study["dimensions"].items()} == {
        name: room.full for name, room in by_dimension.items()
    }
    assert load_video_model(trainer.state.path).config == TINY
