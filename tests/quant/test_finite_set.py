"""Finite-set calibration: the range of a timestep comes from the samples of that timestep and from nothing else."""

import torch

from qdit.models.roles import select
from qdit.quant.finite_set import calibrate_finite_set
from qdit.quant.observe import observe_inputs
from qdit.quant.ranges import running_parameters
from tests.small_models import TINY, inputs, random_dit

TIMESTEPS = (0, 333, 999)
ROLES = ("fc1", "q", "time_embed", "adaln")


def batches_at(timestep, *, loudness=1.0, seed=0):
    """Two batches of three samples."""
    x, _, label = inputs(count=6, seed=seed + timestep)
    time = torch.full((6,), timestep)
    return [(loudness * x[part], time[part], label[part]) for part in (slice(0, 3), slice(3, 6))]


def calibrated(loudness, bits=8):
    model = random_dit()
    sites = select(model.sites(), roles=ROLES)
    data = ((t, iter(batches_at(t, loudness=loud))) for t, loud in zip(TIMESTEPS, loudness, strict=True))
    calibrate_finite_set(model, sites, data, bits=bits)
    return model, {site.name: model.get_submodule(site.name).activation for site in sites}


def test_ranges_are_running_extremes_of_each_timestep_with_zero():
    _, result = calibrated((1, 1, 1))
    full = random_dit()
    for site in select(full.sites(), roles=ROLES):
        quantizer = result[site.name]
        assert quantizer.table.timesteps.tolist() == list(TIMESTEPS)
        for index, timestep in enumerate(TIMESTEPS):
            seen = []
            observe_inputs(full, [site], batches_at(timestep), lambda _site, x, seen=seen: seen.append(x.aminmax()))
            low, high = (0.95 * seen[0][end] + 0.05 * seen[1][end] for end in (0, 1))
            scale, zero_point = running_parameters(low, high, 8)
            torch.testing.assert_close(quantizer.scale[index], scale)
            assert quantizer.zero_point[index] == zero_point


def test_samples_of_one_timestep_change_the_range_of_that_timestep_only():
    _, quiet = calibrated((1, 1, 1))
    _, loud = calibrated((1, 5, 1))
    for name in quiet:
        same = (quiet[name].scale == loud[name].scale).tolist()
        depends_on_images = "t_embedder" not in name and "adaLN" not in name
        assert same == ([True, False, True] if depends_on_images else [True] * 3), name


def test_temporal_features_have_another_range_at_another_timestep():
    _, result = calibrated((1, 1, 1))
    for index in range(TINY.depth):
        assert len(result[f"blocks.{index}.adaLN_modulation.1"].scale.unique()) == 3


def test_bits_may_differ_from_site_to_site():
    names = [site.name for site in select(random_dit().sites(), roles=ROLES)]
    bits = {name: 4 + index % 3 for index, name in enumerate(names)}
    _, result = calibrated((1, 1, 1), bits)
    assert {name: quantizer.bits for name, quantizer in result.items()} == bits


def test_eight_bits_change_the_output_little_at_calibrated_and_other_timesteps():
    model, _ = calibrated((1, 1, 1))
    x, _, label = inputs(seed=40)
    timestep = torch.tensor([0, 10, 333, 340, 990, 999])
    with torch.inference_mode():
        full = random_dit()(x, timestep, label)
        assert 0 < (model(x, timestep, label) - full).norm() / full.norm() < 0.15
