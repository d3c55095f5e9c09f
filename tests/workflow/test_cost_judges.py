"""Operations of LPIPS and of the judges against formulas of their published shapes, and their lines in the text."""

import re

import pytest

from qdit.workflow.cost import Speed, cost_text
from qdit.workflow.cost_judges import judge_flops, looking_flops, lpips_flops
from qdit.workflow.profile import all_runs, load_profile


def transformer(tokens: int, width: int, blocks: int) -> int:
    """Products of a transformer: 12 width² weights a token and block, and two products of attention."""
    return blocks * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)


def patches(side: int, patch: int, width: int) -> int:
    return 2 * (side // patch) ** 2 * 3 * patch**2 * width


def test_judges_have_the_operations_of_their_networks() -> None:
    image = transformer(257, 1024, 24) + patches(224, 14, 1024)
    assert judge_flops("dino") == image
    text = transformer(77, 768, 12)
    assert judge_flops("clip") == image + text + 2 * 768 * (1024 + 768)  # the projections of both vectors
    words, seen = 35, 197
    own = 2 * words * 4 * 768**2 + 4 * words**2 * 768
    cross = 2 * words * 2 * 768**2 + 2 * seen * 2 * 1024 * 768 + 4 * words * seen * 768
    last = 2 * (768 * 1024 + 1024 * 128 + 128 * 64 + 64 * 16 + 16)
    bert = 12 * (own + cross + 2 * words * 2 * 768 * 3072) + last
    assert judge_flops("image-reward") == transformer(seen, 1024, 24) + patches(224, 16, 1024) + bert


@pytest.mark.parametrize(("network", "giga"), [("alex", 1.31), ("vgg", 30.7)])
def test_lpips_counts_the_convolutions_of_both_images(network: str, giga: float) -> None:
    """At 224 × 224 the convolutions of AlexNet have 0.66 billion products, those of VGG16 15.3 billion."""
    linear = lpips_flops(network, 224) / 2
    assert linear == pytest.approx(giga * 1e9, rel=0.01)
    assert lpips_flops(network, 448) == pytest.approx(4 * 2 * linear, rel=0.1)


def test_doctor_has_a_line_for_each_network() -> None:
    flux = load_profile("flux")
    runs, images = all_runs(flux), 5000
    looks = looking_flops(flux)
    assert looks["clip"] == (len(runs), pytest.approx(len(runs) * images * judge_flops("clip")))
    assert looks["LPIPS"] == (len(runs), pytest.approx(len(runs) * images * lpips_flops("alex", 1024)))
    text = cost_text(flux, Speed(100e12, "given", float32=40e12))
    for name, (jobs, flops) in looks.items():
        assert re.search(rf"  {name} +{jobs} jobs +{flops / 40e12 / 3600:.1f} GPU-hours besides, in float32", text)
    assert "GPU-hours besides" not in cost_text(load_profile("mini"), Speed(50e12, "given"))
    assert set(looking_flops(load_profile("paper"))) == {"LPIPS", "dino"}
