"""Calibration sets of a video model: clips of its own flow at their own timesteps, texts and copies without text."""

import dataclasses

import pytest
import torch

from qdit.core.errors import ConfigError, DataError, Unsupported
from qdit.core.files import save_tensors
from qdit.core.seeds import Purpose, normal
from qdit.models.config import STDiT3Config
from qdit.models.stdit3 import STDiT3
from qdit.models.text_embeddings import join
from qdit.sampling import calibration
from qdit.sampling.calibration import (
    CONDITIONAL,
    KINDS,
    chosen_steps,
    collect,
    load_calibration,
    save_calibration,
    together,
    trajectories,
)
from qdit.sampling.calibration_set import schedule_of
from qdit.sampling.clips import spread_prompts
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.protocol import Protocol
from qdit.sampling.rectified_flow import flow_trajectory, guided_velocity
from tests.small_models import TINY, calibration_set, random_dit
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_inputs

CONFIG = dataclasses.replace(TINY_VIDEO, pixels_per_cell=1)
GUIDED = FlowProtocol(frames=2, height=4, width=6, fps=8, steps=4, cfg_scale=2.0, shift=2.5)
PLAIN = dataclasses.replace(GUIDED, cfg_scale=1.0)
PROMPTS = 3


def text():
    return video_inputs(CONFIG, count=PROMPTS)[2:]


def collected(kind, protocol=GUIDED, samples=5):
    return collect(random_stdit3(CONFIG), kind, protocol, samples=samples, text=text())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ndtc-released", "regression")])
@pytest.mark.parametrize("protocol", [GUIDED, PLAIN])
def test_every_sample_is_its_own_trajectory_at_its_own_timestep(kind, protocol):
    model, samples = random_stdit3(CONFIG), 5
    found = collect(model, kind, protocol, samples=samples * (4 if kind == "per-step" else 1), text=text())
    doubled = kind != "trajectory" and protocol.guided
    assert len(found) == samples * (2 if doubled else 1) * (4 if kind == "per-step" else 1)
    assert found.unconditional.tolist() == ([False, True] if doubled else [False]) * (len(found) // (1 + doubled))
    schedule, own, checked = schedule_of(protocol), found.conditional(), 0
    steps = chosen_steps(kind, samples, 4, 0)
    for clip in range(samples):
        tokens, mask = (part[clip % PROMPTS][None] for part in text())
        noise = normal((3, 2, 4, 6), 0, Purpose.CALIBRATION_NOISE, clip)[None]
        for step, x in flow_trajectory(guided_velocity(model, tokens, mask, protocol), noise, protocol.timesteps):
            row = clip if kind != "per-step" else (3 - step) * samples + clip
            if step >= 0 and (kind == "per-step" or steps[clip] == step):
                assert own.timestep[row] == schedule[step]
                torch.testing.assert_close(own.x[row], x[0], rtol=1e-3, atol=1e-3)
                assert torch.equal(own.conditions[0][row], tokens[0]) and torch.equal(own.conditions[1][row], mask[0])
                checked += 1
    assert checked == len(own)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CONDITIONAL])
def test_copies_without_text_have_the_masks_of_their_prompts(kind):
    found = collected(kind)
    tokens, mask = found.conditions
    assert torch.equal(tokens[1::2], random_stdit3(CONFIG).null_text(len(found) // 2, tokens.shape[1]))
    assert torch.equal(mask[::2], mask[1::2])
    assert torch.equal(found.x[::2], found.x[1::2]) and torch.equal(found.timestep[::2], found.timestep[1::2])


def test_batches_are_what_the_sampler_gives_the_model():
    """Frames per second, height and width included, whatever the model's own defaults."""
    found = collected("uniform", dataclasses.replace(PLAIN, fps=3))
    model = random_stdit3(dataclasses.replace(CONFIG, pixels_per_cell=1, fps=30))
    own = guided_velocity(model, *found.conditions, found.protocol)(found.x, found.timestep)
    parts = torch.cat([model(*batch)[:, :3] for batch in found.batches(2)])
    torch.testing.assert_close(parts, own)
    defaults = model(found.x, found.timestep, *found.conditions)[:, :3]
    assert (defaults - own).abs().max() > 1e-3


def test_samples_of_a_step_and_spread_over_steps():
    found = collected("per-step", samples=20)
    schedule = schedule_of(GUIDED)
    assert all(len(found.at_step(step)) == 10 for step in range(4))
    part = found.spread(2, 3)
    assert part.timestep.tolist() == [float(schedule[3])] * 3 + [float(schedule[1])] * 3


def test_round_trip_and_determinism(tmp_path):
    for name in ("a", "b"):
        save_calibration(tmp_path / name, collected("ndtc"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    made, loaded = collected("ndtc"), load_calibration(tmp_path / "a", CONFIG)
    for name in ("x", "timestep", "unconditional"):
        assert torch.equal(getattr(loaded, name), getattr(made, name)), name
    assert all(torch.equal(*pair) for pair in zip(loaded.conditions, made.conditions, strict=True))
    assert (loaded.kind, loaded.protocol) == ("ndtc", GUIDED)


def write(path, **changes):
    x, timestep, tokens, mask = video_inputs(CONFIG, count=2, size=(2, 4, 6))
    tensors = {"x": x, "timestep": timestep, "text": tokens, "mask": mask, "unconditional": torch.zeros(2).bool()}
    save_tensors(path, tensors | changes, {"kind": "ndtc", "protocol": GUIDED.to_dict()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.full((2, 3, 2, 4, 6), torch.nan)}, "NaN"),
        ({"x": torch.zeros(2, 3, 2, 4, 4)}, "the model takes"),
        ({"text": torch.zeros(2, 5, 11)}, "N, L, 12"),
        ({"mask": torch.zeros(2, 5).bool()}, "at least one token"),
        ({"timestep": torch.tensor([0.0, 10.0])}, "0…1000"),
        ({"unconditional": torch.zeros(3).bool()}, "the model takes"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, changes, message):
    write(tmp_path / "good")
    assert len(load_calibration(tmp_path / "good", CONFIG)) == 2
    write(tmp_path / "bad", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_calibration(tmp_path / "bad", CONFIG)
    assert "\n" not in str(caught.value)


def test_sets_of_the_other_family_are_refused(tmp_path):
    write(tmp_path / "video")
    with pytest.raises(DataError, match="not a calibration set of an image model"):
        load_calibration(tmp_path / "video", TINY)
    images = calibration_set("ndtc")
    save_calibration(tmp_path / "image", images)
    with pytest.raises(DataError, match="not a calibration set of a video model"):
        load_calibration(tmp_path / "image", CONFIG)
    with pytest.raises(Unsupported, match="prompts instead of class labels"):
        _ = collected("uniform").label


def test_models_protocols_and_texts_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="video model .stdit3. cannot follow a Protocol"):
        collect(random_stdit3(CONFIG), "ndtc", Protocol(steps=4), samples=2, text=text())
    with pytest.raises(ConfigError, match="image model .dit. cannot follow a FlowProtocol"):
        collect(random_dit(), "ndtc", GUIDED, samples=2)
    with pytest.raises(ConfigError, match="found no prompts"):
        collect(random_stdit3(CONFIG), "ndtc", GUIDED, samples=2)
    with pytest.raises(ConfigError, match="texts are 11 wide, the model takes 12"):
        collect(random_stdit3(CONFIG), "ndtc", GUIDED, samples=2, text=(text()[0][..., :11], text()[1]))


def test_so_many_trajectories_run_side_by_side_as_their_tokens_allow(monkeypatch):
    with torch.device("meta"):
        full = STDiT3(STDiT3Config())
    assert together(full, FlowProtocol()) == 2
    whole = collected("ndtc")
    monkeypatch.setattr(calibration, "ELEMENTS", 2 * 2 * 2 * 3 * 24)  # of two clips of 12 tokens
    assert together(random_stdit3(CONFIG), GUIDED) == 2
    parts = collected("ndtc")
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-4, atol=1e-4)
    assert torch.equal(parts.timestep, whole.timestep)


def test_prompts_of_embeddings_are_spread_over_the_suite():
    tokens = [torch.full((1 + index % 3, 12), float(index)) for index in range(9)]
    embeddings = join([f"prompt {index}" for index in range(9)], tokens)
    found, mask = spread_prompts(embeddings, 3)
    assert found[:, 0, 0].tolist() == [0, 4, 8] and mask.sum(dim=1).tolist() == [1, 2, 3]
    assert spread_prompts(embeddings, 20)[0][:, 0, 0].tolist() == list(range(9))
    assert trajectories("per-step", 9, GUIDED) == 3 and trajectories("ndtc", 9, GUIDED) == 9


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_some_kinds_have_no_copies_without_text(kind):
    found = collect(random_stdit3(CONFIG), kind, GUIDED, samples=5, text=text())
    assert len(found) == 5 * (4 if kind == "regression" else 1) and not found.unconditional.any()
