"""Training of the mini DiT: the loss against its definition, learning, and resuming to the bit."""

import math

import numpy as np
import pytest
import torch

from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.files import load_tensors
from qdit.mini.data.digits import load
from qdit.mini.training.dit import (
    MINI_MODELS,
    HybridLoss,
    Trainer,
    TrainingConfig,
    learning_rate_factor,
    train_mini_dit,
)
from qdit.sampling.schedule import training_schedule
from tests.small_models import TINY

SHORT = TrainingConfig(iterations=8, stop_at=8, batch_size=4, warmup=2, checkpoint_every=3, bfloat16=False)


def gaussian_kl(mean1, log_variance1, mean2, log_variance2):
    """KL(N1 ‖ N2) elementwise."""
    ratio = np.exp(log_variance1 - log_variance2)
    return 0.5 * (log_variance2 - log_variance1 - 1 + ratio + (mean1 - mean2) ** 2 * np.exp(-log_variance2))


@pytest.mark.parametrize("timestep", [0, 1, 500, 999])
def test_hybrid_loss_is_noise_mse_plus_the_variational_bound(timestep):
    generator = torch.Generator().manual_seed(timestep)
    x0, noise, predicted = (torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    variance = torch.rand(3, 1, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1
    output = torch.cat([predicted, variance], dim=1).float()
    step = torch.full((3,), timestep)
    found = HybridLoss(1e-3, torch.device("cpu"))(lambda *_: output, x0.float(), step, torch.zeros(3), noise.float())

    schedule = training_schedule()
    bar, beta = schedule.alphas_cumprod[timestep], schedule.betas[timestep]
    previous = schedule.alphas_cumprod_previous[timestep]
    noisy = math.sqrt(bar) * x0 + math.sqrt(1 - bar) * noise
    guess = (noisy - math.sqrt(1 - bar) * predicted) / math.sqrt(bar)
    of_x0 = beta * math.sqrt(previous) / (1 - bar)
    of_x = (1 - previous) * math.sqrt(1 - beta) / (1 - bar)
    low = schedule.posterior_log_variance_clipped[timestep]
    fraction = (variance + 1) / 2
    log_variance = fraction * math.log(beta) + (1 - fraction) * low
    true_mean, mean = of_x0 * x0 + of_x * noisy, of_x0 * guess + of_x * noisy
    if timestep:
        bound = gaussian_kl(true_mean.numpy(), low, mean.numpy(), log_variance.numpy())
    else:
        density = -0.5 * (math.log(2 * math.pi) + log_variance + (x0 - mean) ** 2 / log_variance.exp())
        bound = -density.numpy()
    expected = float(((predicted - noise) ** 2).mean()) + 1e-3 * bound.mean() / math.log(2)
    assert float(found) == pytest.approx(expected, rel=2e-3)


def test_the_bound_trains_only_the_variance_channels():
    output = torch.randn(2, 2, 8, 8, requires_grad=True)
    noise = output.detach()[:, :1].clone()  # a perfect noise prediction has no MSE gradient
    loss = HybridLoss(1.0, torch.device("cpu"))(
        lambda *_: output, torch.randn(2, 1, 8, 8), torch.tensor([5, 600]), torch.zeros(2), noise
    )
    loss.backward()
    assert output.grad[:, :1].abs().max() == 0
    assert output.grad[:, 1:].abs().min() > 0


def test_stopping_and_resuming_gives_the_same_bits(tmp_path):
    data = load("train")
    straight = Trainer(TINY, SHORT, tmp_path / "straight")
    straight.run(data)
    first = Trainer(TINY, SHORT, tmp_path / "resumed")
    first.run(data, until=4)
    resumed = Trainer(TINY, SHORT, tmp_path / "resumed")
    assert resumed.iteration == 4
    resumed.run(data)
    assert straight.path.read_bytes() == resumed.path.read_bytes()


def test_another_configuration_does_not_resume(tmp_path):
    Trainer(TINY, SHORT, tmp_path).run(load("train"), until=1)
    with pytest.raises(CheckpointError, match="another configuration"):
        Trainer(TINY, TrainingConfig(iterations=9), tmp_path)


def test_the_loss_falls(tmp_path):
    config = TrainingConfig(iterations=60, stop_at=60, batch_size=32, warmup=5, learning_rate=3e-3, bfloat16=False)
    trainer, data = Trainer(TINY, config, tmp_path), load("train")
    losses = []
    for iteration in range(60):
        trainer.iteration = iteration
        losses.append(trainer.step(data))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_both_models_have_sixteen_tokens_and_learn_from_training_digits_only():
    small, large = (MINI_MODELS[name] for name in ("dit-digits", "dit-digits-16"))
    assert small.config.tokens == large.config.tokens == 16
    assert (small.config.hidden_size, small.config.depth) == (large.config.hidden_size, large.config.depth)
    assert small.data().images.shape == (1437, 1, 8, 8)
    assert large.data().images.shape == (16 * 1437, 1, 16, 16)
    assert torch.equal(large.data().labels[:1437], load("train").labels)


def test_a_model_is_trained_by_name(tmp_path):
    config = TrainingConfig(iterations=2, stop_at=1, batch_size=2, warmup=1)
    metadata = load_tensors(train_mini_dit("dit-digits-16", tmp_path, config=config))[1]
    assert metadata["iteration"] == 1
    assert metadata["model"]["input_size"] == 16
    with pytest.raises(
        ConfigError, match="unknown model 'dit-digit'; allowed are dit-digits, dit-digits-16, dit-fashion"
    ):
        train_mini_dit("dit-digit", tmp_path)


def test_learning_rate_warms_up_and_ends_at_zero():
    config = TrainingConfig(iterations=100, warmup=10)
    factors = [learning_rate_factor(config, i) for i in range(101)]
    assert factors[0] < 0.2 and max(factors) > 0.95 and factors[100] == pytest.approx(0)
