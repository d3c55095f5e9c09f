"""Shapes of the instruments' networks, and detections on maps written by hand."""

import math

import pytest
import torch

from qdit.core.errors import DataError
from qdit.core.seeds import Purpose, torch_generator
from qdit.mini.data.moving_digits import make_clips
from qdit.mini.data.moving_digits_prompts import tokens_of
from qdit.mini.training.video_instruments import initialize
from qdit.mini.vbench.networks import FrameReading, Instruments
from qdit.mini.vbench.observation import TEMPERATURE, Observer, detections, pooled, probabilities, require_clips


@pytest.fixture(scope="module")
def network():
    made = Instruments().eval()
    initialize(made, torch_generator(0, Purpose.TRAINING))
    return made


def reading(objectness):
    """A reading of one frame with given objectness logits (8, 8); digit and colour number 1 everywhere."""
    digits, colours = torch.zeros(1, 6, 8, 8), torch.zeros(1, 4, 8, 8)
    digits[:, 1], colours[:, 1] = 1, 1
    none = torch.zeros(1, 1)
    return FrameReading(none, objectness[None], digits, colours, none, none, none)


def test_detections_are_peaks_with_probabilities():
    objectness = torch.full((8, 8), -9.0)
    objectness[2, 3], objectness[2, 4], objectness[6, 6], objectness[0, 0] = 3, 2, 1, -1
    ((*found,),) = detections(reading(objectness))
    assert [(seen.down, seen.across) for seen in found] == [(0, 0), (2, 3), (6, 6)]
    certain, other = (math.exp(1 / TEMPERATURE), 1.0)
    for seen, logit in zip(found, (-1, 3, 1), strict=True):
        objectness_here = 1 / (1 + math.exp(-logit))
        assert sum(seen.digits.values()) == pytest.approx(objectness_here)
        assert seen.digits["1"] == pytest.approx(objectness_here * certain / (certain + 5 * other))
        assert seen.colours["green"] == pytest.approx(certain / (certain + 3 * other))


def test_probabilities_are_those_of_the_divided_logits():
    logits = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    expected = (logits / TEMPERATURE).exp() / (logits / TEMPERATURE).exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(probabilities(logits), expected)


def test_pooling_is_a_weighted_mean_of_length_one():
    trunk = torch.zeros(1, 2, 2, 2)
    trunk[0, 0, 0, 0], trunk[0, 1, 1, 1] = 3, 4
    weight = torch.tensor([[[1.0, 0], [0, 1]]])
    torch.testing.assert_close(pooled(trunk, weight), torch.tensor([[0.6, 0.8]]))


def test_embeddings_have_length_one_and_prompts_are_sets_of_words(network):
    clips = make_clips(0, range(5), "train")
    tokens = [tokens_of(scenario) for scenario in clips.scenarios]
    with torch.inference_mode():
        embedding = network.clips(clips.frames.float() / 127.5 - 1).embedding
        prompts = network.clips.of_prompts(tokens)
        alone = network.clips.of_prompts([tuple(reversed(tokens[3]))])
    assert embedding.shape == prompts.shape == (5, 96)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(alone[0], prompts[3])


def test_a_clip_is_seen_alike_alone_and_in_a_batch(network):
    observer, clips = Observer(network, "none"), make_clips(0, range(4), "train").frames
    together, alone = observer(clips)[2], observer(clips[2:3])[0]
    assert len(together.detections) == 8
    for frame, other in zip(together.detections, alone.detections, strict=True):
        assert [(a.down, a.across) for a in frame] == [(b.down, b.across) for b in other]
        for a, b in zip(frame, other, strict=True):
            assert a.digits == pytest.approx(b.digits, abs=1e-5) and a.colours == pytest.approx(b.colours, abs=1e-5)
    for name in ("subject", "scenes", "motions", "embedding", "flow", "midpoint", "quality"):
        torch.testing.assert_close(
            torch.from_numpy(getattr(together, name)), torch.from_numpy(getattr(alone, name)), atol=1e-5, rtol=1e-4
        )
    assert (together.flow.shape, together.midpoint.shape, together.subject.shape) == ((7,), (3,), (8, 64))


@pytest.mark.parametrize("shape", [(2, 3, 7, 16, 16), (2, 3, 8, 16, 8), (3, 8, 16, 16)])
def test_other_clips_are_refused(shape):
    with pytest.raises(DataError, match=r"allowed is uint8 \(N, 3, 8 frames, 16, 16\)"):
        require_clips(torch.zeros(shape, dtype=torch.uint8))
