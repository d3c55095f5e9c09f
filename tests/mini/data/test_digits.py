"""The digits and their 16×16 variants: same split, same numbers for ever, small movements, nothing cut off."""

import hashlib
import math

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.core.pixels import to_uint8
from qdit.mini.data.data_sets import data_set
from qdit.mini.data.digits import GLYPH_SIZE, HELD_OUT, load, load_upsampled, motion, upsample

DIGITS = "c1d3b53b17921e77"


def test_the_digits_are_pinned():
    """Changing these changes the split, and with it what the shipped weights have seen."""
    data = load("all")
    content = to_uint8(data.images).numpy().tobytes() + data.labels.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == DIGITS


def test_the_variants_are_pinned():
    angle, shift = motion("all", 0)
    assert [*angle[:2].tolist(), *shift[0].tolist()] == pytest.approx([0.1340, 0.1349, 0.7488, -0.0704], abs=1e-4)
    angle, shift = motion("train", 2)
    assert [angle[0].item(), *shift[0].tolist()] == pytest.approx([-0.0412, 0.0495, 0.1569], abs=1e-4)
    images = load_upsampled("all").images
    assert [images.mean().item(), images.std().item()] == pytest.approx([-0.5159, 0.6677], abs=1e-4)


@pytest.mark.parametrize("name", ["digits", "digits-16"])
def test_parts_together_are_all_and_held_out_digits_stay_held_out(name):
    everything, train, held_out = (data_set(name, part) for part in ("all", "train", "held_out"))
    assert (len(everything), len(train), len(held_out)) == (1797, 1437, 360)
    assert torch.equal(torch.cat([held_out.images, train.images]), everything.images)
    assert torch.equal(torch.cat([held_out.labels, train.labels]), everything.labels)


def test_variants_have_the_documented_shape_and_range():
    data = load_upsampled("held_out", copies=3)
    assert data.images.shape == (3 * HELD_OUT, 1, 16, 16) and data.images.dtype == torch.float32
    assert data.images.min() == -1 and data.images.max() == 1
    assert torch.equal(data.labels, load("held_out").labels.repeat(3))


def test_a_variant_does_not_depend_on_how_many_there_are_and_no_two_are_alike():
    one, three = load_upsampled("train").images, load_upsampled("train", copies=3).images.view(3, -1, 1, 16, 16)
    assert torch.equal(one, three[0])
    assert (three[0] - three[1]).abs().amax(dim=(1, 2, 3)).min() > 0.05
    assert (three[1] - three[2]).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_variants_move_as_little_as_they_say():
    angle, shift = motion("all", 0)
    assert angle.shape == (1797,) and shift.shape == (1797, 2)
    assert 0.95 * math.radians(10) < angle.abs().max() <= math.radians(10)
    assert 0.95 < shift.abs().max() <= 1
    assert angle.mean().abs() < math.radians(1) and shift.mean().abs() < 0.1


def centre(images):
    """(N, 2) column and row of the centre of the ink in pixels."""
    ink = (images + 1)[:, 0]
    places = torch.arange(images.shape[-1], dtype=torch.float32)
    mass = ink.sum(dim=(1, 2))
    return torch.stack([(ink.sum(dim=1) * places).sum(1) / mass, (ink.sum(dim=2) * places).sum(1) / mass], dim=1)


def test_unmoved_digits_are_magnified_about_the_centre():
    images = load("train").images[:50]
    still = torch.zeros(50)
    large = upsample(images, still, torch.zeros(50, 2))
    expected = 7.5 + (centre(images) - 3.5) * GLYPH_SIZE / 8
    torch.testing.assert_close(centre(large), expected, atol=0.15, rtol=0)


def test_a_shift_moves_the_ink_by_that_many_pixels():
    images = load("train").images[:50]
    zero = torch.zeros(50)
    still, moved = (upsample(images, zero, torch.tensor([[x, y]]).expand(50, 2)) for x, y in ((0.0, 0.0), (1.0, -0.5)))
    expected = torch.tensor([[-1.0, 0.5]]).expand(50, 2)  # the frame moves, so the ink goes the other way
    torch.testing.assert_close(centre(moved) - centre(still), expected, atol=0.2, rtol=0)


def test_nothing_is_cut_off():
    ink, small = ((images + 1).sum(dim=(1, 2, 3)) for images in (load_upsampled("all").images, load("all").images))
    assert (ink / small / (GLYPH_SIZE / 8) ** 2).min() > 0.97


def test_unknown_data_set():
    with pytest.raises(
        ConfigError, match="'digit-16'; allowed are digits, digits-16, fashion-mnist; did you mean 'digits-16'"
    ):
        data_set("digit-16", "all")
