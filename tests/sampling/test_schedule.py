"""The noise schedule against the published respacing, Bayes' rule, and an independent respacing."""

from fractions import Fraction

import numpy as np
import pytest

from qdit.core.errors import ConfigError
from qdit.sampling.schedule import respaced, training_schedule


def test_respacing_has_the_originals_timesteps() -> None:
    fifty = respaced(50).timesteps.tolist()
    assert fifty[:4] == [0, 20, 41, 61] and fifty[-3:] == [958, 979, 999]
    hundred = respaced(100).timesteps.tolist()
    assert hundred[:3] == [0, 10, 20] and hundred[-2:] == [989, 999]
    twenty = respaced(20).timesteps.tolist()
    assert twenty[:3] == [0, 53, 105] and twenty[-2:] == [946, 999]
    assert respaced(1).timesteps.tolist() == [0]


@pytest.mark.parametrize("steps", [2, 3, 7, 10, 20, 50, 100, 250, 500, 999, 1000])
def test_every_respacing_is_even_and_holds_both_ends(steps: int) -> None:
    schedule = respaced(steps)
    assert schedule.steps == steps == len(schedule.timesteps)
    assert schedule.timesteps[0] == 0 and schedule.timesteps[-1] == 999
    assert schedule.timesteps.dtype == np.int64 and (np.diff(schedule.timesteps) > 0).all()
    exact = [Fraction(999 * k, steps - 1) for k in range(steps)]
    assert max(abs(e - int(t)) for e, t in zip(exact, schedule.timesteps, strict=True)) <= Fraction(1, 2)


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 250])
def test_usual_respacings_are_those_of_an_accumulated_stride(steps: int) -> None:
    """create_diffusion adds the stride up step by step, which can round halves otherwise; not at these numbers."""
    position, expected = 0.0, []
    for _ in range(steps):
        expected.append(round(position))
        position += 999 / (steps - 1)
    assert respaced(steps).timesteps.tolist() == expected


def test_training_schedule_is_linear_in_float64() -> None:
    schedule = training_schedule()
    assert schedule.betas.dtype == np.float64 and schedule.steps == 1000
    assert schedule.betas[0] == 1e-4 and schedule.betas[-1] == 0.02
    np.testing.assert_allclose(np.diff(schedule.betas), (0.02 - 1e-4) / 999, rtol=1e-9)
    assert np.isclose(schedule.alphas_cumprod[-1], np.exp(np.log1p(-schedule.betas).sum()), rtol=1e-12)
    assert 4.0e-5 < schedule.alphas_cumprod[-1] < 4.1e-5


@pytest.mark.parametrize("steps", [1, 2, 20, 50, 1000])
def test_recomputed_betas_keep_the_noise_level_of_each_kept_step(steps: int) -> None:
    schedule, full = respaced(steps), training_schedule()
    kept = np.array([np.prod(1 - full.betas[: t + 1]) for t in schedule.timesteps])
    np.testing.assert_allclose(schedule.alphas_cumprod, kept, rtol=1e-12)
    np.testing.assert_allclose(schedule.betas, 1 - kept / np.append(1, kept[:-1]), rtol=1e-10)
    assert ((schedule.betas > 0) & (schedule.betas < 1)).all()
    assert schedule.alphas_cumprod_previous[0] == 1
    np.testing.assert_array_equal(schedule.alphas_cumprod_previous[1:], schedule.alphas_cumprod[:-1])


def test_no_respacing_gives_back_the_training_schedule() -> None:
    np.testing.assert_array_equal(respaced(1000).timesteps, np.arange(1000))
    np.testing.assert_allclose(respaced(1000).betas, training_schedule().betas, rtol=1e-11)


def test_posterior_is_bayes_rule() -> None:
    """q(x_{i−1} | x_i, x_0) as a product of the two Gaussians it is made of."""
    schedule = respaced(50)
    for i in range(1, 50):
        beta, previous = schedule.betas[i], schedule.alphas_cumprod_previous[i]
        precision = (1 - beta) / beta + 1 / (1 - previous)
        assert np.isclose(schedule.posterior_variance[i], 1 / precision, rtol=1e-10)
        of_x0, of_x = (table[i] for table in schedule.posterior_mean_coefficients)
        assert np.isclose(of_x, np.sqrt(1 - beta) / beta / precision, rtol=1e-10)
        assert np.isclose(of_x0, np.sqrt(previous) / (1 - previous) / precision, rtol=1e-10)


def test_last_step_of_the_posterior() -> None:
    schedule = respaced(20)
    of_x0, of_x = schedule.posterior_mean_coefficients
    assert schedule.posterior_variance[0] == 0 and of_x[0] == 0 and np.isclose(of_x0[0], 1)
    clipped = schedule.posterior_log_variance_clipped
    assert np.isfinite(clipped).all() and clipped[0] == clipped[1] == np.log(schedule.posterior_variance[1])
    assert (clipped[1:] < np.log(schedule.betas[1:])).all()


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps {steps}.*1 to 1000"):
        respaced(steps)
