"""Calibration sets: correct (x_t, t) pairs, stated step distributions, bad files refused."""

import numpy as np
import pytest
import torch

from qdit.artifacts import save_tensors
from qdit.calibration import (
    KINDS,
    chosen_steps,
    collect,
    load_calibration,
    save_calibration,
)
from qdit.errors import ConfigError, DataError
from qdit.sampling.guidance import denoiser
from qdit.sampling.protocol import Protocol
from qdit.sampling.samplers import trajectory
from qdit.sampling.schedule import respaced
from qdit.seeds import Purpose, normal
from tests.small_models import TINY, random_dit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_every_sample_is_its_own_trajectory_at_its_own_timestep(kind, cfg_scale):
    model, protocol = random_dit(), Protocol(steps=6, cfg_scale=cfg_scale)
    found = collect(model, kind, protocol, samples=9)
    schedule = respaced(6)
    for index in range(9):
        noise = normal((1, 8, 8), 0, Purpose.CALIBRATION_NOISE, index)[None]
        label = found.label[index : index + 1]
        with torch.inference_mode():
            for step, x in trajectory(denoiser(model, label, cfg_scale), noise, schedule):
                if step >= 0 and schedule.timesteps[step] == found.timestep[index]:
                    assert torch.allclose(found.x[index], x[0], rtol=1e-3, atol=1e-4)


def test_trajectory_steps_are_distinct_within_a_batch_of_16():
    steps = chosen_steps("trajectory", 64, 20, 0).reshape(4, 16)
    assert all(len(set(batch)) == 16 for batch in steps)
    assert len({tuple(batch) for batch in steps}) == 4


def test_ndtc_steps_follow_the_clipped_normal_distribution():
    steps = chosen_steps("ndtc", 20000, 100, 0)
    inner = steps[(steps > 0) & (steps < 99)]
    assert steps.min() == 0 and steps.max() == 99
    assert abs(np.median(steps) - 39.5) < 1.5
    assert abs((steps == 0).mean() - 0.165) < 0.02, "P(t < 1) of N(40, 40)"
    assert 20 < inner.std() < 40


def test_guided_ndtc_counts_both_branches_and_trajectory_only_the_conditional_one():
    guided = Protocol(steps=4, cfg_scale=2.0)
    ndtc = collect(random_dit(), "ndtc", guided, samples=5)
    assert len(ndtc) == 10 and (ndtc.label[5:] == TINY.null_class).all() and torch.equal(ndtc.x[:5], ndtc.x[5:])
    only = collect(random_dit(), "trajectory", guided, samples=5)
    assert len(only) == 5 and (only.label < TINY.null_class).all()


def test_round_trip_and_determinism(tmp_path):
    protocol = Protocol(steps=4)
    for name in ("a", "b"):
        save_calibration(tmp_path / name, collect(random_dit(), "ndtc", protocol, samples=5), protocol)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load_calibration(tmp_path / "a", TINY)
    assert torch.equal(loaded.x, collect(random_dit(), "ndtc", protocol, samples=5).x)
    assert [len(batch[0]) for batch in loaded.batches(2)] == [2, 2, 1]


def write(path, **changes):
    tensors = {"x": torch.zeros(2, 1, 8, 8), "timestep": torch.tensor([0, 999]), "label": torch.tensor([0, 10])}
    tensors |= changes
    save_tensors(path, {key: value for key, value in tensors.items() if value is not None}, {"kind": "ndtc"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.full((2, 1, 8, 8), torch.nan)}, "NaN"),
        ({"x": torch.zeros(2, 4, 8, 8)}, "the model takes"),
        ({"x": torch.zeros(0, 1, 8, 8)}, "the model takes"),
        ({"timestep": torch.tensor([0, 1000])}, "0…999"),
        ({"label": torch.tensor([0, 11])}, "0…10"),
        ({"label": torch.tensor([1])}, "the model takes"),
        ({"label": None}, "not a calibration set"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, changes, message):
    write(tmp_path / "bad", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_calibration(tmp_path / "bad", TINY)
    assert "\n" not in str(caught.value)


def test_unknown_kinds_and_empty_sets_are_refused():
    with pytest.raises(ConfigError, match=r"did you mean 'trajectory'\?"):
        collect(random_dit(), "trajektory", Protocol(steps=4), samples=4)
    with pytest.raises(ConfigError, match="at least 1"):
        collect(random_dit(), "ndtc", Protocol(steps=4), samples=0)
