"""Training of the mini video model: rectified flow against its definition, learning, resuming to the bit, shipping."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.files import load_tensors, save_tensors
from qdit.mini.data.moving_digits import make_clips
from qdit.mini.data.moving_digits_prompts import encode
from qdit.mini.training.video import (
    MOVING_DIGITS_STDIT3,
    VideoTrainer,
    VideoTrainingConfig,
    learning_rate_factor,
    read_start,
    shifted,
    to_model,
    train_mini_video,
)
from qdit.mini.training.video_shipping import averaged_video_model, load_video_model, ship_video
from qdit.models.loading import load_model, save_model
from qdit.models.manifest import verify_manifest
from qdit.models.stdit3 import STDiT3

TINY = replace(MOVING_DIGITS_STDIT3, hidden_size=24, depth=1, num_heads=2, frequency_size=16)
SHORT = VideoTrainingConfig(iterations=6, batch_size=4, warmup=2, checkpoint_every=2, bfloat16=False)


@pytest.fixture
def trained(tmp_path):
    trainer = VideoTrainer(TINY, SHORT, tmp_path / "training")
    trainer.run(until=2)
    return trainer


def test_a_batch_is_a_straight_path_between_data_and_noise(tmp_path):
    batch = VideoTrainer(TINY, SHORT, tmp_path).batch(3)
    data = to_model(make_clips(0, range(12, 16), "train").frames)
    at = batch.times.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(batch.noisy + at * batch.velocity, data, atol=1e-5, rtol=0)
    noise = batch.noisy - (1 - at) * batch.velocity
    assert abs(float(noise.mean())) < 0.05 and float(noise.std()) == pytest.approx(1, abs=0.05)
    assert data.min() >= -1 and data.max() <= 1


def test_the_loss_is_the_squared_error_of_the_first_channels(trained):
    batch = trained.batch(0)
    with torch.no_grad():
        output = trained.model(batch.noisy, 1000 * batch.times, batch.text, batch.mask)
        expected = (output[:, :3] - batch.velocity).square().mean()
        torch.testing.assert_close(trained.loss(batch), expected)


def test_times_are_shifted_towards_noise():
    times = torch.linspace(0, 1, 5)
    torch.testing.assert_close(shifted(times, 2.0), 2 * times / (1 + times))
    torch.testing.assert_close(shifted(times, 1.0), times)


def test_some_clips_lose_their_text(tmp_path):
    trainer = VideoTrainer(TINY, replace(SHORT, batch_size=64, text_dropout=0.5), tmp_path)
    batch = trainer.batch(0)
    lost = (batch.text == trainer.model.null_text(64, 9)).all(dim=(1, 2))
    assert 16 < int(lost.sum()) < 48
    assert set(batch.mask.sum(dim=1).tolist()) == {6, 9}


def test_stopping_and_resuming_gives_the_same_bits(trained, tmp_path):
    straight = VideoTrainer(TINY, SHORT, tmp_path / "straight")
    straight.run(until=4)
    resumed = VideoTrainer(TINY, SHORT, tmp_path / "training")
    assert resumed.state.iteration == 2
    resumed.run(until=4)
    assert straight.state.path.read_bytes() == resumed.state.path.read_bytes()


def test_another_configuration_does_not_resume(trained, tmp_path):
    with pytest.raises(CheckpointError, match="another configuration"):
        VideoTrainer(TINY, replace(SHORT, seed=1), tmp_path / "training")


def test_a_training_begins_with_given_weights_and_resumes_to_the_bit(trained, tmp_path):
    source = ship_video(trained.state.path, tmp_path / "weights", name="tiny")[0]
    begun = read_start(source, TINY)
    assert begun.iteration == 2
    straight = VideoTrainer(TINY, SHORT, tmp_path / "straight", start=begun)
    for name, tensor in load_model(source).named_parameters():
        assert torch.equal(straight.state.parameters[name].detach(), tensor)
        assert torch.equal(straight.state.average[name], tensor)
    straight.run(until=3)
    for name, mean in straight.state.average.items():  # a tenth of it remains of the given weights
        expected = torch.lerp(begun.weights[name], straight.state.parameters[name], 0.9)
        torch.testing.assert_close(mean, expected.detach())
    straight.run(until=6)
    for until in (4, 6):
        VideoTrainer(TINY, SHORT, tmp_path / "interrupted", start=begun).run(until=until)
    assert straight.state.path.read_bytes() == (tmp_path / "interrupted" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="another configuration"):
        VideoTrainer(TINY, SHORT, tmp_path / "straight")


def test_weights_of_another_network_are_refused(trained):
    with pytest.raises(CheckpointError, match="holds another network"):
        read_start(trained.state.path, replace(TINY, depth=2))


def test_two_objects_and_their_places_are_choices(tmp_path):
    config = replace(SHORT, batch_size=64, text_dropout=0)
    batch = VideoTrainer(TINY, replace(config, two_objects=1.0, places=True), tmp_path).batch(0)
    assert set(batch.mask.sum(dim=1).tolist()) == {9}
    scenarios = make_clips(0, range(64), "train", two_objects=1.0).scenarios
    assert torch.equal(batch.text, encode(scenarios, places=True)[0])
    assert not torch.equal(batch.text, encode(scenarios, places=False)[0])
    assert set(VideoTrainer(TINY, config, tmp_path).batch(0).mask.sum(dim=1).tolist()) == {6, 9}


def test_the_loss_falls(tmp_path):
    config = replace(SHORT, iterations=40, batch_size=16, learning_rate=1e-2, other_learning_rate=5e-3)
    trainer = VideoTrainer(TINY, config, tmp_path)
    losses = [trainer.step() for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:4])


def test_a_model_is_trained_by_name(tmp_path):
    with pytest.raises(ConfigError, match="unknown model 'stdit3'; allowed are stdit3-moving-digits"):
        train_mini_video("stdit3", tmp_path)


def test_the_mini_model_is_small_and_has_the_image_models_group_sizes():
    config = MOVING_DIGITS_STDIT3
    assert all(config.hidden_size % size == 0 for size in (36, 24, 16, 12, 8, 4))
    model = STDiT3(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 8, 16, 16), torch.zeros(1), torch.zeros(1, 9, 64), torch.ones(1, 9))
    assert 0.2e9 < counter.get_total_flops() < 0.4e9  # two per multiplication; two gigaflop are allowed


def test_learning_rates_do_not_depend_on_the_end():
    config = VideoTrainingConfig(warmup=10, hold=100)
    factors = [learning_rate_factor(config, i) for i in (0, 4, 9, 100, 400, 10_000)]
    assert factors == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0.1])
    assert [learning_rate_factor(config, i, 400) for i in (400, 402, 409)] == pytest.approx(
        [0.1, 0.3, (100 / 409) ** 0.5]
    )


def test_training_may_go_on_beyond_its_end(trained, tmp_path):
    longer = VideoTrainer(TINY, replace(SHORT, iterations=100, checkpoint_every=1), tmp_path / "training")
    assert longer.state.iteration == 2


def test_the_average_is_shipped_in_half_precision(trained, tmp_path):
    model, metadata = averaged_video_model(trained.state.path)
    assert metadata["iteration"] == 2
    path, salient = ship_video(trained.state.path, tmp_path / "weights", name="tiny")
    verify_manifest(tmp_path / "weights")
    found = load_model(path).state_dict()
    assert found["y_embedder.y_embedding"].abs().max() > 0
    for name, tensor in model.state_dict().items():
        exact = name == "rope.freqs"
        torch.testing.assert_close(found[name], tensor if exact else tensor.half().float(), atol=0, rtol=0)
    for source in (path, salient, trained.state.path):
        assert load_video_model(source).config == TINY


def test_a_checkpoint_that_is_not_whole_is_refused(trained, tmp_path):
    tensors, metadata = load_tensors(trained.state.path)
    path, missing = tmp_path / "edited.safetensors", "average.final_layer.linear.bias"
    for kept, facts, words in (
        ({name: tensor for name, tensor in tensors.items() if name != missing}, metadata, "1 weights are missing"),
        (tensors, {**metadata, "iteration": None}, "its metadata lack model or iteration"),
        (tensors, {**metadata, "model": {"depth": "two"}}, "not a training checkpoint of a video model"),
    ):
        save_tensors(path, kept, facts)
        with pytest.raises(CheckpointError, match=words):
            ship_video(path, tmp_path / "weights", name="tiny")
    assert not (tmp_path / "weights").exists()


def test_weights_that_do_not_say_their_iteration_are_no_start(tmp_path):
    save_model(tmp_path / "model.safetensors", VideoTrainer(TINY, SHORT, tmp_path).model)
    with pytest.raises(CheckpointError, match="does not say the iteration of its training"):
        read_start(tmp_path / "model.safetensors", TINY)


def test_other_checkpoints_are_refused(tmp_path):
    save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {"model": {}})
    with pytest.raises(CheckpointError, match="not a training checkpoint of a video model"):
        averaged_video_model(tmp_path / "other.safetensors")
    assert load_tensors(tmp_path / "other.safetensors")[1] == {"model": {}}
