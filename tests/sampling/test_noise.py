"""Noise and labels depend on the image's index alone."""

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.noise import initial_noise, labels, step_noise
from qdit.sampling.protocol import Protocol

SHAPE = (2, 3, 3)


def test_an_images_noise_does_not_depend_on_the_batch() -> None:
    whole = initial_noise(SHAPE, 0, range(20))
    assert whole.shape == (20, *SHAPE) and whole.dtype == torch.float32
    assert torch.equal(initial_noise(SHAPE, 0, range(7, 12)), whole[7:12])
    assert torch.equal(initial_noise(SHAPE, 0, [13, 2]), whole[[13, 2]])
    assert torch.equal(labels(10, 0, range(7, 12)), labels(10, 0, range(20))[7:12])
    later = step_noise(SHAPE, 0, range(20), 3)
    assert torch.equal(step_noise(SHAPE, 0, range(5, 6), 3), later[5:6])


def test_images_steps_seeds_and_purposes_are_independent() -> None:
    first = initial_noise(SHAPE, 0, range(200))
    others = [
        initial_noise(SHAPE, 1, range(200)),
        initial_noise(SHAPE, 0, range(200, 400)),
        step_noise(SHAPE, 0, range(200), 0),
        step_noise(SHAPE, 0, range(200), 1),
    ]
    streams = torch.stack([first, *others]).flatten(1).double().numpy()
    correlation = np.corrcoef(streams)
    assert np.abs(correlation - np.eye(5)).max() < 4.5 / np.sqrt(streams.shape[1])
    assert abs(first.mean()) < 0.07 and abs(first.std() - 1) < 0.05


def test_labels_are_uniform_over_the_classes() -> None:
    counts = torch.bincount(labels(10, 0, range(4000)), minlength=10)
    assert len(counts) == 10 and (counts - 400).abs().max() < 90
    assert labels(10, 0, range(3)).dtype == torch.int64


@pytest.mark.parametrize(("images", "each"), [(10_000, 10), (5_000, 5)])
def test_balanced_labels_are_the_same_number_of_each_class(images: int, each: int) -> None:
    """PTQ4DiT's script: 10 images of each of 1,000 classes, 5 of each at 512 pixels."""
    counts = torch.bincount(labels(1000, 0, range(images), "balanced"), minlength=1000)
    assert counts.tolist() == [each] * 1000
    random = torch.bincount(labels(1000, 0, range(images)), minlength=1000)
    assert random.double().std() > 0.8 * each**0.5, "drawn labels are not"


def test_balanced_labels_depend_on_the_image_alone() -> None:
    whole = labels(10, 0, range(37), "balanced")
    assert torch.equal(labels(10, 3, range(7, 21), "balanced"), whole[7:21]) and whole.dtype == torch.int64
    counts = torch.bincount(whole, minlength=10)
    assert counts.max() - counts.min() <= 1


def test_noise_leaves_the_global_generators_alone() -> None:
    before, state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    initial_noise(SHAPE, 0, range(3))
    labels(10, 0, range(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "euler"}, "'euler'.*ddim, ddpm"),
        ({"steps": 0}, "steps 0.*1 to 1000"),
        ({"steps": 1001}, "steps 1001"),
        ({"steps": 20.0}, "steps 20.0: allowed are whole numbers"),
        ({"steps": True}, "steps True"),
        ({"seed": -1}, "seed -1"),
        ({"cfg_scale": -1.0}, "cfg_scale -1"),
        ({"cfg_scale": 0}, "cfg_scale 0.*1 .no guidance. to 100"),
        ({"cfg_scale": 0.5}, "cfg_scale 0.5.*would be computed as 1"),
        ({"cfg_scale": float("nan")}, "cfg_scale nan"),
        ({"cfg_scale": float("inf")}, "cfg_scale inf"),
        ({"cfg_scale": 1e30}, "cfg_scale 1e[+]30"),
        ({"cfg_scale": "2"}, "cfg_scale '2'"),
        ({"dtype": "half"}, "dtype 'half'"),
    ],
)
def test_impossible_protocols_are_refused(changes, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Protocol(**changes)
    assert "\n" not in str(caught.value)
    if "sampler" not in changes:
        with pytest.raises(ConfigError, match=words):
            FlowProtocol(**changes)


def test_whole_guidance_scales_are_the_same_protocol() -> None:
    assert repr(Protocol(cfg_scale=2)) == repr(Protocol(cfg_scale=2.0))
    assert repr(FlowProtocol(shift=2, cfg_scale=7)) == repr(FlowProtocol(shift=2.0))


def test_guidance_starts_above_one() -> None:
    assert [Protocol(cfg_scale=s).guided for s in (1.0, 1.01, 4.0)] == [False, True, True]
