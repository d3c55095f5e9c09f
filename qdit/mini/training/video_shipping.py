"""Turn a training checkpoint of a video model into the model itself, and into the published weights."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors
from qdit.mini.data.moving_digits_prompts import PLACES
from qdit.mini.training.checkpoint_file import filled, read_average, training_of
from qdit.mini.training.salient import SalientConfig
from qdit.mini.training.video_salient import make_salient_video
from qdit.models.config import STDiT3Config
from qdit.models.loading import save_model, write_manifest
from qdit.models.stdit3 import STDiT3

TRAINED_BY = "qdit train video"


def averaged_video_model(checkpoint: Path) -> tuple[STDiT3, dict[str, Any]]:
    """Load a checkpoint that `qdit train video` wrote: the moving average as a model in eval mode, and the metadata.

    CheckpointError for a file that is not a whole checkpoint of a video model.
    """
    average, metadata = read_average(checkpoint, of_video=True, command=TRAINED_BY)

    def make() -> STDiT3:
        return STDiT3(STDiT3Config(**metadata["model"]))

    return filled(make, average, checkpoint, of_video=True, command=TRAINED_BY), metadata


def ship_video(checkpoint: Path, weights: Path, *, name: str, salient: SalientConfig | None = None) -> list[Path]:
    """Write `<name>-natural.safetensors` and `<name>-salient.safetensors` (float16) to the folder `weights`.

    The folder's manifest is written again. The salient form is made from the stored natural form. `salient` says
    how many channels get a factor and how large the factors are; by default as for the image models.
    """
    model, metadata = averaged_video_model(checkpoint)
    described = training_of(metadata, checkpoint, "training", "world", "iteration")
    natural, stressed = (weights / f"{name}-{form}.safetensors" for form in ("natural", "salient"))
    save_half(natural, model, {**described, "form": "natural"})
    config = salient or SalientConfig()
    form = {"form": "salient", "salient": asdict(config)}
    save_half(stressed, make_salient_video(model.float(), config), {**described, **form})
    write_manifest(weights)
    return [natural, stressed]


def save_half(path: Path, model: STDiT3, metadata: Mapping[str, Any]) -> None:
    """Write the weights as float16, and give the model the same rounded values.

    Fixed frequencies keep full precision, because every model computes them itself.
    """
    angles = model.rope.freqs.clone()
    model.half()
    model.rope.freqs = angles
    save_model(path, model, metadata=metadata)


def load_video_model(path: Path) -> STDiT3:
    """Load published weights or a training checkpoint. CheckpointError for any other file."""
    from qdit.models.loading import load_model

    _, metadata = load_tensors(path)
    if isinstance(metadata, dict) and "world" in metadata and "form" not in metadata:
        return averaged_video_model(path)[0]
    model = load_model(path)
    if not isinstance(model, STDiT3):
        raise CheckpointError(f"{path}: holds a {type(model).__name__}, a video model (STDiT3) is needed")
    return model.to(torch.float32)


def has_places(path: Path) -> bool:
    """Whether a model was trained on words that say where two objects stand (`moving_digits_prompts.encode`)."""
    _, metadata = load_tensors(path)
    training = metadata.get("training") if isinstance(metadata, dict) else None
    return bool(training.get("places", False)) if isinstance(training, dict) else PLACES
