"""Load transformers of diffusers from local folders, and build models without values from a configuration."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from qdit.core.errors import CheckpointError, Unsupported, did_you_mean
from qdit.core.files import read_json
from qdit.models.config import DiffusersConfig
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.manifest import check_file
from qdit.models.weights_files import weight_files

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
EXACT = ("DiTTransformer2DModel", "Transformer2DModel")
"""Classes whose folders are read as our own DiT."""


def transformer_class(name: object) -> Any:
    """Class of diffusers with this name. CheckpointError unless `diffusers` itself exports a model of this name.

    No other module is imported, so that a configuration file cannot run code of its own.
    """
    import diffusers

    models = [n for n in dir(diffusers) if "Transformer" in n or "DiT" in n]
    model_class = getattr(diffusers, name, None) if isinstance(name, str) and name.isidentifier() else None
    bases = (diffusers.ModelMixin, nn.Module)
    if not (isinstance(model_class, type) and all(issubclass(model_class, base) for base in bases)):
        hint = did_you_mean(str(name), models)
        raise CheckpointError(
            f"transformer class {name!r:.60}: diffusers {diffusers.__version__} has no such model{hint}"
        )
    return model_class


def require_storable(config: DiffusersConfig) -> None:
    """Raise Unsupported for a class that diffusers does not export: its checkpoint could not be loaded again."""
    try:
        transformer_class(config.class_name)
    except CheckpointError:
        raise Unsupported(
            f"{config.class_name}: only classes of diffusers can be stored as a checkpoint, since a file must not name"
            " code of its own; store `model.state_dict()` and quantize again in the program that defines the class"
        ) from None


def build_network(config: DiffusersConfig) -> DiffusersNetwork:
    """Build a network from a configuration.

    Parameters are on the meta device (no values); buffers have their values.
    """
    from accelerate import init_empty_weights

    model_class = transformer_class(config.class_name)
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        transformer = model_class.from_config(dict(config.values))
    return DiffusersNetwork(transformer.eval())


def is_transformer_folder(folder: Path) -> bool:
    """Whether a folder's configuration is that of a diffusers transformer. DiT does not count: our own DiT loads it."""
    values = read_json(folder / CONFIG_FILE, error=CheckpointError)
    name = values.get("_class_name") if isinstance(values, dict) else None
    return isinstance(name, str) and "Transformer" in name and name not in EXACT


def load_network(folder: Path | str) -> DiffusersNetwork:
    """Load the network of a local folder that `save_pretrained` wrote, in float32 and eval mode.

    Only safetensors files are read, and nothing is downloaded. CheckpointError for a folder without such files, or for
    an unknown class. Unsupported for a model that is already quantized.
    """
    folder = Path(folder)
    values = read_json(folder / CONFIG_FILE, error=CheckpointError)
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE}: must be a JSON object; give a folder of `save_pretrained`")
    model_class = transformer_class(values.get("_class_name"))
    require_safe_files(folder)
    if "quantization_config" in values:
        raise Unsupported(f"{folder}: is quantized already; give the folder of the transformer in full precision")
    try:
        transformer = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        raise CheckpointError(f"{folder}: diffusers cannot load it ({' '.join(str(problem).split())[:300]})") from None
    return DiffusersNetwork(transformer.eval())


def require_safe_files(folder: Path) -> None:
    """Raise CheckpointError unless a folder's weights are safetensors.

    If the folder has a manifest, the digests of the files must be those of the manifest.
    """
    for file in weight_files(folder, WEIGHTS_FILE):
        check_file(file)
