"""What tests/workflow/video.yaml names: a random STDiT3 of the moving digits' size in both forms, and its prompts."""

import dataclasses
import json
from pathlib import Path

from qdit.mini.training.salient import SalientConfig
from qdit.mini.training.video_salient import make_salient_video
from qdit.mini.vbench.suites import all_prompts, full_info
from qdit.models.loading import save_model
from tests.small_video_models import TINY_VIDEO, random_stdit3

CONFIG = dataclasses.replace(
    TINY_VIDEO,
    depth=1,
    patch_size=4,
    hidden_size=48,
    num_heads=4,
    text_width=64,
    text_tokens=9,
    pixels_per_cell=1,
    frame_positions=True,
)


def write_tiny_video(folder: Path) -> None:
    """Weights and suite: one prompt of each of the eleven suites, so that all dimensions are scored."""
    model = random_stdit3(CONFIG)
    save_model(folder / "natural.safetensors", model)
    save_model(folder / "salient.safetensors", make_salient_video(model, SalientConfig()))
    (folder / "suite.json").write_text(json.dumps(full_info(all_prompts(1))))
