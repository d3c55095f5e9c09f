"""Turn a training run into the published weights: half-precision files in `weights/`, and the manifest of this folder.

Training writes below `results/`. Only this command changes the weights in the repository.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors
from qdit.mini.training.checkpoint_file import filled, read_average, training_of
from qdit.mini.training.dit import MINI_MODELS
from qdit.mini.training.salient import SalientConfig, make_salient
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.models.loading import save_model, write_manifest

TRAINED_BY = "`qdit train`"


def averaged_model(checkpoint: Path) -> tuple[DiT, dict[str, Any]]:
    """Load a training checkpoint: the model with the moving average of the weights, and the checkpoint's metadata.

    CheckpointError for a file that is not a whole checkpoint or snapshot of a DiT.
    """
    average, metadata = read_average(checkpoint, of_video=False, command=TRAINED_BY)

    def make() -> DiT:
        return DiT(DiTConfig(**metadata["model"]))

    return filled(make, average, checkpoint, of_video=False, command=TRAINED_BY), metadata


def require_named(checkpoint: Path, config: DiTConfig, name: str) -> None:
    """Raise CheckpointError if `name` is one of our models, and the checkpoint holds another network.

    Otherwise the weights of one model would replace those of another.
    """
    known = MINI_MODELS.get(name)
    if known is not None and known.config != config:
        fitting = [other for other, model in MINI_MODELS.items() if model.config == config]
        held = f"the network of {fitting[0]}" if fitting else "another network"
        raise CheckpointError(
            f"{checkpoint}: holds {held}, the name is {name}; give --name {fitting[0] if fitting else 'of your own'}"
        )


def save_half(path: Path, model: DiT, metadata: Mapping[str, Any]) -> None:
    """Write the weights as float16. The fixed positions stay in float32, because every model computes them itself."""
    positions = model.pos_embed.clone()
    model.half()
    model.pos_embed = positions
    save_model(path, model, metadata=metadata)


def ship_dit(checkpoint: Path, weights: Path, *, name: str, salient: SalientConfig | None) -> None:
    """Write `<name>-natural.safetensors` to the folder `weights`.

    With `salient` also write `<name>-salient.safetensors`. The salient form is made from the stored natural form. The
    folder's manifest is written again. CheckpointError for the name of a model with another network.
    """
    model, metadata = averaged_model(checkpoint)
    require_named(checkpoint, model.config, name)
    training = training_of(metadata, checkpoint, "training", "iteration")
    natural = weights / f"{name}-natural.safetensors"
    save_half(natural, model, {**training, "form": "natural"})
    if salient is not None:
        restored = load_model_unchecked(natural, model.config)
        described = {**training, "form": "salient", "salient": asdict(salient)}
        save_half(weights / f"{name}-salient.safetensors", make_salient(restored, salient), described)
    write_manifest(weights)


def load_model_unchecked(path: Path, config: DiTConfig) -> DiT:
    """Load a weights file that was just written, and is not in the manifest yet."""
    tensors, _ = load_tensors(path)
    model = DiT(config)
    model.load_state_dict({key: tensor.to(torch.float32) for key, tensor in tensors.items()})
    return model.eval()
