"""The trajectories of an analysis are those of a run, to the bit."""

import pytest
import torch

from qdit.metrics.analysis.trajectory import follow, inputs_along, start
from qdit.sampling.batch import sample_images
from qdit.sampling.protocol import Protocol
from qdit.sampling.schedule import respaced
from tests.small_models import random_dit


@pytest.mark.parametrize(
    "protocol", [Protocol(steps=4), Protocol(steps=4, cfg_scale=1.5, seed=3), Protocol("ddpm", 5, 1.5)], ids=str
)
def test_it_ends_at_the_images_of_a_run(protocol: Protocol) -> None:
    model = random_dit()
    begin = start(model, protocol, 3)
    followed = follow(model, protocol, begin)
    x0, asked = sample_images(model, protocol, range(3))
    assert torch.equal(followed.x[-1], x0) and torch.equal(begin.labels, asked)
    assert followed.steps == tuple(reversed(range(protocol.steps)))
    assert followed.timesteps == tuple(int(t) for t in respaced(protocol.steps).timesteps[::-1])
    assert len(followed.x) == protocol.steps + 1 and len(followed.eps) == protocol.steps


def test_its_noise_is_the_models_at_its_own_inputs() -> None:
    model, protocol = random_dit(), Protocol(steps=4)
    begin = start(model, protocol, 2)
    followed = follow(model, protocol, begin)
    with torch.inference_mode():
        for place, batch in inputs_along(followed, begin):
            assert torch.equal(model(*batch)[:, :1], followed.eps[place])


class Shift:
    """A correction that can be told from none."""

    def apply(self, eps: torch.Tensor, step: int) -> torch.Tensor:
        return eps + step

    def variance(self, step: int) -> float:
        return 0.0


def test_a_correction_is_part_of_it() -> None:
    model, protocol = random_dit(), Protocol(steps=3)
    begin = start(model, protocol, 2)
    plain, shifted = follow(model, protocol, begin), follow(model, protocol, begin, Shift())
    assert torch.equal(shifted.eps[0], plain.eps[0] + 2) and not torch.equal(shifted.x[1], plain.x[1])
