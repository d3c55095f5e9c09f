"""Check the state dict of an STDiT3. Its shapes, or an official folder, give the configuration.

Every tensor is checked. Names and shapes are those of hpcai-tech/OpenSora-STDiT-v3. The configuration of a file and its
tensors must agree.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from qdit.core.errors import CheckpointError
from qdit.core.files import read_json
from qdit.models.config import STDiT3Config
from qdit.models.state import checked_config, load_strictly, positive_integers, shape_of
from qdit.models.stdit3 import STDiT3
from qdit.models.weights_files import CONFIG_FILE, read_weights

WEIGHTS_FILE = "model.safetensors"

REQUIRED = {"qk_norm": True, "pred_sigma": True, "skip_y_embedder": False}
"""Settings of the official configuration that the architecture here is written for."""

FIELDS = {
    "in_channels": "in_channels",
    "hidden_size": "hidden_size",
    "depth": "depth",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "caption_channels": "text_width",
    "model_max_length": "text_tokens",
}
"""Names of the official configuration → ours, where the tensors show the same number."""


PUBLISHED = STDiT3Config()
"""Open-Sora 1.2."""
FLAG = "frame_positions"
HIDDEN = ("base_size", "pixels_per_cell", "fps", FLAG)
"""Settings that no tensor shows."""


def is_stdit3_state(names: Mapping[str, Any]) -> bool:
    """Whether tensors with these names belong to an STDiT3."""
    return any(name.startswith("temporal_blocks.") for name in names)


def is_official_folder(folder: Path) -> bool:
    """Whether a folder's configuration says that it holds an STDiT3."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    values = read_json(folder / CONFIG_FILE, error=CheckpointError)
    named = [values.get("model_type"), values.get("architectures")] if isinstance(values, dict) else []
    return any(name in ("STDiT3", ["STDiT3"]) for name in named)


def infer_stdit3_config(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    where: str,
    stated: Mapping[str, Any],
    usual: Mapping[str, Any] | None = None,
) -> tuple[STDiT3Config, dict[str, Any]]:
    """Derive an STDiT3's configuration from the tensor shapes of a state dict. Also return the assumed values.

    `stated` are fields that the caller knows. No shape gives the fields of `HIDDEN`. If the caller does not state them,
    `usual` gives them. Without `usual` they are assumed for the published shape only; other shapes give a
    CheckpointError.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        return shape_of(shapes, name, dimensions, of="an STDiT3", where=where)

    width, channels, frame_patch, patch, _ = shape("x_embedder.proj.weight", 5)
    text_tokens, text_width = shape("y_embedder.y_embedding", 2)
    values = {
        "in_channels": channels,
        "patch_size": patch,
        "frame_patch": frame_patch,
        "hidden_size": width,
        "depth": len({name.split(".")[1] for name in shapes if name.startswith("spatial_blocks.")}),
        "num_heads": width // shape("spatial_blocks.0.attn.q_norm.weight", 1)[0],
        "mlp_ratio": shape("spatial_blocks.0.mlp.fc1.weight", 2)[0] // width,
        "text_width": text_width,
        "text_tokens": text_tokens,
        "frequency_size": shape("t_embedder.mlp.0.weight", 2)[1],
    }
    values = positive_integers(values, list(values), where=where)
    unsaid = {name: (usual or {}).get(name, getattr(PUBLISHED, name)) for name in HIDDEN if name not in stated}
    if unsaid and not usual and any(value != getattr(PUBLISHED, name) for name, value in values.items()):
        example = ", ".join(f'"{name}": …' for name in unsaid)
        raise CheckpointError(
            f"{where}: {', '.join(unsaid)} of this model are not in the file, and it is not Open-Sora 1.2's; state"
            f" them: qdit import-weights {where} OUT --family stdit3 --shape '{{{example}}}', or give the folder with"
            " its config.json"
        )
    hidden = {name: stated[name] for name in HIDDEN if name in stated} | unsaid
    numbers = [name for name in hidden if name != FLAG]
    config_values = values | positive_integers(hidden, numbers, where=where) | {FLAG: hidden[FLAG]}
    if type(hidden[FLAG]) is not bool:
        raise CheckpointError(f"{where}: {FLAG} is {hidden[FLAG]!r:.60}, must be true or false; state it so")
    return checked_config(config_values, STDiT3Config, where=where), unsaid


def said_by_folder(folder: Path) -> dict[str, Any]:
    """Settings of `HIDDEN`, which no shape gives, from a published folder's config.json.

    Without this file they are Open-Sora's.
    """
    values = read_json(folder / CONFIG_FILE, error=CheckpointError)
    settings = {name: values.get(name, getattr(PUBLISHED, name)) for name in HIDDEN}
    return settings | ({"base_size": values["input_sq_size"]} if "input_sq_size" in values else {})


def read_official_folder(folder: Path) -> tuple[dict[str, Tensor], STDiT3Config]:
    """Read the state dict and the configuration of a published folder. Only safetensors are read."""
    where = str(folder / CONFIG_FILE)
    values = read_json(folder / CONFIG_FILE, error=CheckpointError)
    for name, wanted in REQUIRED.items():
        if values.get(name, wanted) != wanted:
            raise CheckpointError(
                f"{where}: {name} is {values[name]!r:.60}, must be {wanted}; give Open-Sora 1.2's folder"
            )
    state = read_weights(folder, WEIGHTS_FILE)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    config, _ = infer_stdit3_config(shapes, where=str(folder), stated=said_by_folder(folder))
    shown = config.to_dict()
    pairs = [(name, values[name], shown[ours]) for name, ours in FIELDS.items() if name in values]
    if "patch_size" in values:
        pairs.append(("patch_size", values["patch_size"], [config.frame_patch, config.patch_size, config.patch_size]))
    for name, said, shown_value in pairs:
        if said != shown_value:
            raise CheckpointError(
                f"{where}: {name} is {said!r:.60}, the tensors beside it show {shown_value}; restore the folder"
            )
    return state, config


def defining_shapes(config: STDiT3Config) -> dict[str, tuple[int, ...]]:
    """Name → shape of tensors that together decide the configuration. They are checked before a module is built."""
    hidden, patch = config.hidden_size, config.patch_size
    return {
        "x_embedder.proj.weight": (hidden, config.in_channels, config.frame_patch, patch, patch),
        "y_embedder.y_embedding": (config.text_tokens, config.text_width),
        "t_embedder.mlp.0.weight": (hidden, config.frequency_size),
        "spatial_blocks.0.attn.q_norm.weight": (config.head_size,),
        "spatial_blocks.0.mlp.fc1.weight": (config.mlp_ratio * hidden, hidden),
        f"temporal_blocks.{config.depth - 1}.mlp.fc1.weight": (config.mlp_ratio * hidden, hidden),
    }


def build_stdit3(state: Mapping[str, Tensor], config: STDiT3Config, *, where: str) -> STDiT3:
    """Build an STDiT3 in eval mode with float32 copies of these tensors. CheckpointError if anything does not fit."""
    return load_strictly(state, lambda: STDiT3(config), defining_shapes(config), depth=config.depth, where=where)
