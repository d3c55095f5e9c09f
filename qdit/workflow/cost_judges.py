"""Estimate the GPU work of networks that look at each image: LPIPS, and the judges of a profile.

Each network is built without weights in its published shape. torch counts the operations of matrix products,
convolutions and attention in one forward pass. The networks compute in float32. Reading and scaling of images on the
CPU is not counted.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from qdit.workflow import profile as profiles
from qdit.workflow.cost_models import network_of
from qdit.workflow.families import CLIPS
from qdit.workflow.profile import Profile
from qdit.workflow.profile_pipelines import judges_of
from qdit.workflow.replicates import with_replicates

CLIP_IMAGE, CLIP_TEXT = (1024, 14, 257, 24, 768), (49_408, 77, 768, 12, 768)
"""CLIP ViT-L/14: width, patch, tokens, blocks, vector of the image; words, tokens, width, blocks, vector of texts."""
DINO = (1024, 14, 1370, 24)
"""DINOv2 ViT-L/14: width, patch, stored positions, blocks."""
BLIP_IMAGE, BLIP_TEXT = (1024, 16, 197, 24), ((30_524, 512, 768), 12, 3072)
"""ImageReward: width, patch, tokens and blocks of ViT-L/16; embeddings, layers and hidden width of BERT."""


@cache
def judge_flops(judge: str) -> float:
    """Return the floating-point operations of a judge for one image and a prompt of the full length."""
    import torch

    with torch.device("meta"):
        network, arguments = SHAPES[judge]()
    return counted(network, *arguments)


def clip_shape() -> tuple[Any, tuple[Any, ...]]:
    """Build CLIP without weights, and inputs of zeros in the right shapes, to count operations."""
    import torch

    from qdit.metrics.judge_clip import Clip, ImageHalf, TextHalf

    network = Clip(ImageHalf(*CLIP_IMAGE), TextHalf(*CLIP_TEXT))
    side, length = network.image.side, CLIP_TEXT[1]
    return network, (torch.zeros(1, 3, side, side), torch.zeros(1, length, dtype=torch.int64))


def dino_shape() -> tuple[Any, tuple[Any, ...]]:
    """Build DINOv2 without weights, and inputs of zeros in the right shapes, to count operations."""
    import torch

    from qdit.metrics.judge_dino import SIDE, Dino

    return Dino(*DINO), (torch.zeros(1, 3, SIDE, SIDE),)


def reward_shape() -> tuple[Any, tuple[Any, ...]]:
    """Build ImageReward without weights, and inputs of zeros in the right shapes, to count operations."""
    import torch

    from qdit.metrics.judge_reward import TOKENS, ImageHalf, Reward

    image = ImageHalf(*BLIP_IMAGE)
    tokens = torch.zeros(1, TOKENS, dtype=torch.int64)
    return Reward(image, *BLIP_TEXT), (torch.zeros(1, 3, image.side, image.side), tokens, tokens.bool())


SHAPES: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "clip": clip_shape,
    "dino": dino_shape,
    "image-reward": reward_shape,
}
"""Judge → the network and the arguments of one forward pass."""


@cache
def lpips_flops(network: str, side: int) -> float:
    """Return the floating-point operations of LPIPS for one pair of square images with `side` pixels."""
    import torch

    from qdit.metrics.perceptual import Lpips

    model = Lpips(network).to("meta")
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8, device="meta")
    return counted(model, image, image)


def counted(network: Any, *arguments: Any) -> float:
    """Return the floating-point operations of one forward pass, counted by torch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*arguments)
    return float(counter.get_total_flops())


def looking_flops(profile: Profile) -> dict[str, tuple[int, float]]:
    """Return `LPIPS` or judge → (number of jobs, operations of all jobs), for the images of the default tables."""
    looks: dict[str, tuple[int, float]] = {}

    def add(name: str, flops: float) -> None:
        jobs, sum_of_flops = looks.get(name, (0, 0.0))
        looks[name] = jobs + 1, sum_of_flops + flops

    for run in with_replicates(profile, profiles.all_runs(profile)):
        if profiles.family_at(profile, run.setting) is CLIPS:
            continue
        images = profiles.sampled(profile, run.setting, run.form)["images"]
        if "perceptual" in profile:
            side = round((network_of(profile, run.setting).pixels / 3) ** 0.5)
            add("LPIPS", images * lpips_flops(profile["perceptual"]["network"], side))
        for judge in judges_of(profile):
            add(judge, images * judge_flops(judge))
    return looks


def looking_lines(profile: Profile, flops_per_second: float) -> list[str]:
    """Write the lines of `qdit doctor` about LPIPS and judges; [] if the profile has neither."""
    lines = [
        f"  {name:<12} {jobs:>4} jobs {flops / flops_per_second / 3600:>10.1f} GPU-hours besides, in float32"
        for name, (jobs, flops) in looking_flops(profile).items()
    ]
    return [*lines, "             without the reading and scaling of images on the CPU"] if lines else []
