"""Calibration sets: correct (x_t, t) pairs, stated step distributions, bad files refused."""

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import save_tensors
from qdit.core.seeds import Purpose, normal
from qdit.sampling.calibration import (
    AT_EVERY_STEP,
    CLEAN,
    KINDS,
    chosen_steps,
    collect,
    load_calibration,
    save_calibration,
)
from qdit.sampling.guidance import denoiser
from qdit.sampling.protocol import Protocol
from qdit.sampling.samplers import trajectory
from qdit.sampling.schedule import respaced
from tests.small_models import TINY, calibration_set, random_dit


def image_of(kind, row, samples, guided):
    """Index of the image whose trajectory a row of a set of `samples` images belongs to."""
    position = row // 2 if guided else row
    return position % samples if kind in AT_EVERY_STEP else position


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ndtc-released"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_every_sample_is_its_own_trajectory_at_its_own_timestep(kind, sampler, cfg_scale):
    """Q-DiT's script always samples with DDIM; the other kinds follow the protocol, step noise included."""
    model, protocol, samples = random_dit(), Protocol(sampler, steps=6, cfg_scale=cfg_scale), 5
    found = collect(model, kind, protocol, samples=samples * (6 if kind == "per-step" else 1))
    assert (found.kind, found.protocol) == (kind, protocol)
    doubled = kind not in ("trajectory", "regression") and cfg_scale > 1
    assert len(found) == samples * (2 if doubled else 1) * (6 if kind in AT_EVERY_STEP else 1)
    schedule = respaced(6)
    checked = 0
    for image in range(samples):
        rows = [row for row in range(len(found)) if image_of(kind, row, samples, doubled) == image]
        label = found.label[rows[0] : rows[0] + 1]
        assert set(found.label[rows].tolist()) == {int(label)} | ({TINY.null_class} if doubled else set())

        def step_noise(step, image=image):
            return normal((1, 8, 8), 0, Purpose.CALIBRATION_NOISE, image, 1 + step)[None]

        noise = normal((1, 8, 8), 0, Purpose.CALIBRATION_NOISE, image)[None]
        draws = step_noise if sampler == "ddpm" and kind != "trajectory" else None
        with torch.inference_mode():
            steps = list(trajectory(denoiser(model, label, cfg_scale), noise, schedule, step_noise=draws))
        for step, x in steps:
            for row in rows:
                if step >= 0 and schedule.timesteps[step] == found.timestep[row]:
                    assert torch.allclose(found.x[row], x[0], rtol=1e-3, atol=1e-3 * float(x.abs().max()))
                    checked += 1
    assert checked == len(found)


@pytest.mark.parametrize("kind", ["trajectory", "uniform", "ndtc-released"])
def test_a_trajectory_stops_after_the_step_that_is_recorded(kind, monkeypatch):
    """Samples of equal steps run together, so that half of the steps need not be computed; the samples are the same."""
    sets, computed = [], []
    for pieces in (1, 8):
        monkeypatch.setattr("qdit.sampling.calibration.PIECES", pieces)
        monkeypatch.setattr("qdit.sampling.calibration.LEAST_TOKENS", 16)
        model, rows = random_dit(), []
        model.register_forward_hook(lambda _module, arguments, _output, rows=rows: rows.append(len(arguments[0])))
        sets.append(collect(model, kind, Protocol(steps=8), samples=64))
        computed.append(sum(rows))
    whole, stopped = sets
    assert computed[0] >= 7 * 64 and computed[1] < 0.7 * computed[0]
    torch.testing.assert_close(stopped.x, whole.x, rtol=1e-3, atol=1e-3)
    assert torch.equal(stopped.timestep, whole.timestep) and torch.equal(stopped.label, whole.label)


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


@pytest.mark.parametrize(("kind", "mean", "deviation"), [("ndtc", 0.4, 0.4), ("ndtc-wide", 0.5, 0.35)])
def test_normal_kinds_are_centred_and_as_wide_as_stated(kind, mean, deviation):
    """Shares of steps below the mean, and within one deviation, of N(mean, deviation) cut to whole steps."""
    steps = chosen_steps(kind, 40000, 200, 0) + 0.5
    assert abs((steps < 200 * mean).mean() - 0.5) < 0.02
    low, high = 200 * (mean - 0.5 * deviation), 200 * (mean + 0.5 * deviation)
    assert abs(((steps > low) & (steps < high)).mean() - 0.383) < 0.02


def test_released_pairs_are_those_that_the_program_records_and_one_step_late():
    """Means at 100 steps that the program gives: x at level 56.9, its label 41.1."""
    steps = chosen_steps("ndtc-released", 40000, 100, 0)
    assert steps.min() == CLEAN and steps.max() == 98
    assert steps.mean() == pytest.approx(56.9, abs=0.5) and (98 - steps).mean() == pytest.approx(41.1, abs=0.5)


@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_a_released_pair_is_what_step_t_has_made_and_the_number_t(cfg_scale):
    model, protocol, samples = random_dit(), Protocol("ddim", steps=6, cfg_scale=cfg_scale), 24
    found = collect(model, "ndtc-released", protocol, samples=samples).conditional()
    positions = 4 - chosen_steps("ndtc-released", samples, 6, 0)
    assert found.timestep.tolist() == positions.tolist() and set(positions) >= {0, 5}
    for image in range(samples):
        noise = normal((1, 8, 8), 0, Purpose.CALIBRATION_NOISE, image)[None]
        with torch.inference_mode():
            predict = denoiser(model, found.label[image : image + 1], cfg_scale)
            made = [x for _, x in trajectory(predict, noise, respaced(6))][1:]
        expected = made[positions[image]][0]
        assert torch.allclose(found.x[image], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_uniform_steps_are_drawn_evenly():
    steps = chosen_steps("uniform", 20000, 20, 0)
    shares = np.bincount(steps, minlength=20) / 20000
    assert len(shares) == 20 and abs(shares - 0.05).max() < 0.01
    assert not np.array_equal(steps, chosen_steps("uniform", 20000, 20, 1))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("trajectory", "regression")])
def test_under_guidance_every_sample_is_followed_by_its_unconditional_copy(kind):
    found = collect(random_dit(), kind, Protocol(steps=4, cfg_scale=2.0), samples=5)
    assert (found.label[1::2] == TINY.null_class).all() and (found.label[::2] < TINY.null_class).all()
    assert torch.equal(found.x[::2], found.x[1::2]) and torch.equal(found.timestep[::2], found.timestep[1::2])
    plain = collect(random_dit(), kind, Protocol(steps=4), samples=5)
    assert len(found) == 2 * len(plain) and (plain.label < TINY.null_class).all()
    assert torch.equal(found.label[::2], plain.label) and torch.equal(found.timestep[::2], plain.timestep)
    only = found.conditional()
    assert torch.equal(only.x, found.x[::2]) and torch.equal(only.label, plain.label)


def test_trajectory_has_the_conditional_branch_only():
    only = collect(random_dit(), "trajectory", Protocol(steps=4, cfg_scale=2.0), samples=5)
    assert len(only) == 5 and (only.label < TINY.null_class).all()


@pytest.mark.parametrize("samples", [9, 12])
def test_per_step_holds_every_image_at_every_step_from_the_noisy_end(samples):
    found = collect(random_dit(), "per-step", Protocol(steps=4, cfg_scale=2.0), samples=samples)
    assert found.timestep.tolist() == [t for t in (999, 666, 333, 0) for _ in range(6)]
    assert torch.equal(found.label.view(4, 6), found.label[:6].expand(4, 6))
    for step in range(4):
        part = found.at_step(step)
        assert len(part) == 6 and (part.timestep == respaced(4).timesteps[step]).all()
        assert torch.equal(part.x, found.x[6 * (3 - step) : 6 * (4 - step)])


def numbered(steps, per_step, guided=False):
    """A per-step set whose images hold their own row number."""
    found = calibration_set("per-step", samples=per_step, protocol=Protocol(steps=steps, cfg_scale=1 + guided))
    found.x[:] = torch.arange(len(found.x))[:, None, None, None]
    return found


@pytest.mark.parametrize(
    ("steps", "asked", "chosen"),
    [(8, 4, [7, 5, 3, 1]), (8, 3, [7, 5, 3]), (8, 8, range(7, -1, -1)), (8, 25, range(7, -1, -1)), (50, 1, [49])],
)
def test_spread_takes_steps_at_equal_distances_from_the_noisy_end(steps, asked, chosen):
    data = numbered(steps, 3)
    found = data.spread(asked, 2)
    assert found.timestep.unique_consecutive().tolist() == respaced(steps).timesteps[list(chosen)].tolist()
    images = 3 if asked > steps else 2
    rows = [3 * (steps - 1 - step) + image for step in chosen for image in range(images)]
    assert found.x[:, 0, 0, 0].tolist() == rows, "the first samples of each step"
    assert torch.equal(found.label, data.label[rows])


@pytest.mark.parametrize(("steps", "each"), [(25, 4), (10, 10), (5, 20), (7, 15)])
def test_spread_keeps_the_total_where_the_schedule_has_fewer_steps(steps, each):
    found = numbered(steps, 30).spread(25, 4)
    assert found.timestep.unique(return_counts=True)[1].tolist() == [each] * steps


def test_spread_gives_all_there_are_where_more_are_asked_for():
    data = numbered(4, 3, guided=True)
    assert torch.equal(data.spread(4, 256).x, data.x) and len(data) == 24


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (5, 5), (24, 24), (100, 24)])
def test_scattered_takes_different_samples_of_the_whole_set(count, expected):
    data = numbered(4, 6)
    rows = data.scattered(count).x[:, 0, 0, 0].long()
    assert len(rows) == expected and (rows.diff() > 0).all()
    assert rows[0] == 0 and rows[-1] >= 24 - 24 / expected - 1
    assert torch.equal(data.scattered(count).label, data.label[rows])


def test_samples_can_be_taken_by_index_and_by_mask():
    data = numbered(4, 3)
    mask = data.timestep == 333
    assert torch.equal(data.take(mask).x, data.take(mask.nonzero()[:, 0]).x)
    assert data.take(mask).protocol == data.protocol and len(data.take(mask)) == 3


def test_round_trip_and_determinism(tmp_path):
    protocol = Protocol(steps=4)
    for name in ("a", "b"):
        save_calibration(tmp_path / name, collect(random_dit(), "ndtc", protocol, samples=5))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load_calibration(tmp_path / "a", TINY)
    made = collect(random_dit(), "ndtc", protocol, samples=5)
    assert all(torch.equal(getattr(loaded, name), getattr(made, name)) for name in ("x", "timestep", "label"))
    assert (loaded.kind, loaded.protocol) == ("ndtc", protocol)
    assert [len(batch[0]) for batch in loaded.batches(2)] == [2, 2, 1]


METADATA = {"kind": "ndtc", "protocol": Protocol().to_dict()}


def write(path, **changes):
    tensors = {"x": torch.zeros(2, 1, 8, 8), "timestep": torch.tensor([0, 999]), "label": torch.tensor([0, 10])}
    tensors |= changes
    save_tensors(path, {key: value for key, value in tensors.items() if value is not None}, METADATA)


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


@pytest.mark.parametrize("metadata", [{"kind": "uniform"}, {"kind": "uniform", "protocol": {"stepps": 3}}])
def test_a_set_that_does_not_say_how_it_was_sampled_is_refused(metadata, tmp_path):
    found = calibration_set("uniform")
    path = tmp_path / "old.safetensors"
    save_tensors(path, {"x": found.x, "timestep": found.timestep, "label": found.label}, metadata)
    with pytest.raises(DataError, match="does not say how it was sampled"):
        load_calibration(path, TINY)
