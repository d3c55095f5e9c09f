"""Conversion between our DiT and diffusers' DiTTransformer2DModel, in both directions.

There are three important differences (diffusers 0.42):

1. Diffusers divides the exponents of the timestep frequencies by 127; DiT's original program and our DiT divide by 128.
   The weights published in diffusers' format were trained with 128. So a conversion *to* our DiT gives the function of
   the original program, not what diffusers computes from the same folder. `to_diffusers` sets the frequencies of its
   module to 128. This is not part of the config, so call `use_original_frequencies` again after `from_pretrained`.
   Weights that were trained in diffusers with 127 have no exact counterpart here.
2. norm3 of a block uses `norm_eps`. It is 1e-5 in the published folders and 1e-6 in the original program.
   `to_diffusers` writes 1e-6, and our DiT always uses 1e-6.
3. Diffusers stores the timestep and label embedders once per block. All copies must be equal; our DiT stores one copy.

Diffusers does not store positions, so they are computed again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, Unsupported
from qdit.core.files import read_json, save_tensors, write_json
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT, sincos_positions
from qdit.models.state import (
    build,
    check_names,
    check_shapes,
    check_tensors,
    check_values,
    checked_config,
    positive_integers,
    require_plain,
)
from qdit.models.weights_files import CONFIG_FILE, read_weights

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"

CLASS_NAMES = ("DiTTransformer2DModel", "Transformer2DModel")
REQUIRED = {
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
FREQUENCY_SIZE, MLP_RATIO = 256, 4
"""What diffusers hard-codes."""

OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
IN_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
EMBEDDERS = {
    "t_embedder.mlp.0.weight": "timestep_embedder.linear_1.weight",
    "t_embedder.mlp.0.bias": "timestep_embedder.linear_1.bias",
    "t_embedder.mlp.2.weight": "timestep_embedder.linear_2.weight",
    "t_embedder.mlp.2.bias": "timestep_embedder.linear_2.bias",
    "y_embedder.embedding_table.weight": "class_embedder.embedding_table.weight",
}


def key_map(depth: int) -> dict[str, tuple[str, int | None]]:
    """Map each tensor name of diffusers to (our tensor name, third of its rows: 0 q, 1 k, 2 v, None all rows)."""
    pairs: dict[str, tuple[str, int | None]] = {}
    for leaf in ("weight", "bias"):
        pairs |= {f"{theirs}.{leaf}": (f"{ours}.{leaf}", None) for ours, theirs in OUTER.items()}
    for index in range(depth):
        block = f"transformer_blocks.{index}"
        pairs |= {f"{block}.norm1.emb.{theirs}": (ours, None) for ours, theirs in EMBEDDERS.items()}
        for leaf in ("weight", "bias"):
            for ours, theirs in IN_BLOCK.items():
                pairs[f"{block}.{theirs}.{leaf}"] = (f"blocks.{index}.{ours}.{leaf}", None)
            for third, name in enumerate("qkv"):
                pairs[f"{block}.attn1.to_{name}.{leaf}"] = (f"blocks.{index}.attn.qkv.{leaf}", third)
    return pairs


def config_from_diffusers(values: Any, *, where: str) -> DiTConfig:
    """DiTConfig of a diffusers configuration. CheckpointError if it describes no DiT.

    `where` starts the error message.
    """
    if not isinstance(values, Mapping) or values.get("_class_name") not in CLASS_NAMES:
        class_name = values.get("_class_name") if isinstance(values, Mapping) else values
        raise CheckpointError(f"{where}: _class_name is {class_name!r:.60}; allowed are {', '.join(CLASS_NAMES)}")
    for name, allowed in REQUIRED.items():
        if values.get(name) != allowed:
            raise CheckpointError(
                f"{where}: {name} is {values.get(name)!r}, a DiT has {allowed!r}; give a DiT's folder"
            )
    names = {
        "sample_size": "input_size",
        "patch_size": "patch_size",
        "in_channels": "in_channels",
        "num_layers": "depth",
        "num_attention_heads": "num_heads",
        "num_embeds_ada_norm": "num_classes",
    }
    numbers = positive_integers(values, [*names, "attention_head_dim", "out_channels"], where=where)
    if numbers["out_channels"] != 2 * numbers["in_channels"]:
        raise CheckpointError(
            f"{where}: out_channels is {numbers['out_channels']}, must be twice in_channels"
            f" ({2 * numbers['in_channels']}): only DiTs with learned variance are supported"
        )
    hidden_size = numbers["num_attention_heads"] * numbers["attention_head_dim"]
    settings = {"hidden_size": hidden_size} | {names[name]: numbers[name] for name in names}
    return checked_config(settings, DiTConfig, where=where)


def state_from_diffusers(state: Mapping[str, Tensor], config: DiTConfig, *, where: str) -> dict[str, Tensor]:
    """Rename and join the tensors of a diffusers DiT to a state dict with our names.

    Diffusers stores the embedders once per block. CheckpointError if these copies differ, or if a tensor does not fit.
    """
    pairs = key_map(config.depth)
    hidden = config.hidden_size
    projection = {"weight": (hidden, hidden), "bias": (hidden,)}
    check_tensors(state, where=where)
    check_names(state, pairs, where=where)
    check_values(state, where=where)
    parts = {
        theirs: projection[name.rpartition(".")[2]] for theirs, (name, third) in pairs.items() if third is not None
    }
    check_shapes(state, parts, where=where)
    ours: dict[str, Tensor] = {"pos_embed": sincos_positions(hidden, config.input_size // config.patch_size)}
    thirds: dict[str, list[Tensor]] = {}
    for theirs, (name, third) in pairs.items():
        if third is not None:
            thirds.setdefault(name, []).append(state[theirs])
        elif name not in ours:
            ours[name] = state[theirs]
        elif ours[name].dtype != state[theirs].dtype or not torch.equal(ours[name], state[theirs]):
            raise CheckpointError(
                f"{where}: tensor {theirs} differs from block 0's copy of it; a DiT has one embedder for all blocks:"
                " give weights whose copies are equal"
            )
    return ours | {name: torch.cat(parts) for name, parts in thirds.items()}


def from_diffusers(source: Any, config: Mapping[str, Any] | None = None) -> DiT:
    """Convert a DiTTransformer2DModel, or its state dict and its configuration, to our DiT in eval mode.

    The result computes the function of the original program (frequencies divided by 128, norm eps 1e-6). The text of
    this module explains it.
    """
    where = "diffusers model"
    if not isinstance(source, Mapping):
        config, source = json.loads(source.to_json_string()), source.state_dict()
    ours = config_from_diffusers(config, where=where)
    return build(state_from_diffusers(source, ours, where=where), ours, where=where)


def read_folder(folder: Path) -> tuple[dict[str, Tensor], DiTConfig]:
    """Read a diffusers model folder. Return the state dict with our names, and the configuration.

    The weights are one file or several, and only safetensors are read. If the folder has a manifest.json, the files are
    checked against it.
    """
    described = read_json(folder / CONFIG_FILE, error=CheckpointError)
    if isinstance(described, dict) and ("quantization_config" in described or {"format", "sites"} <= described.keys()):
        raise CheckpointError(f"{folder}: holds a quantized model; give the full-precision weights that it was made of")
    config = config_from_diffusers(described, where=str(folder / CONFIG_FILE))
    state = read_weights(folder, WEIGHTS_FILE)
    return state_from_diffusers(state, config, where=str(folder)), config


def use_original_frequencies(module: nn.Module) -> None:
    """Make a DiTTransformer2DModel divide the exponents of the timestep frequencies by 128, as in DiT's training."""
    for block in module.get_submodule("transformer_blocks").children():
        projection: Any = block.get_submodule("norm1.emb.time_proj")
        projection.downscale_freq_shift = 0


def require_convertible(model: DiT) -> None:
    """Raise Unsupported if diffusers cannot represent the model.

    That is so if the model is quantized, or if it has a shape for which diffusers' code allows only another value.
    """
    config = model.config
    require_plain(model)
    if (config.frequency_size, config.mlp_ratio) != (FREQUENCY_SIZE, MLP_RATIO):
        raise Unsupported(
            f"frequency_size {config.frequency_size} and mlp_ratio {config.mlp_ratio}: diffusers has only"
            f" {FREQUENCY_SIZE} and {MLP_RATIO}; keep such a model in our own format"
        )
    positions = sincos_positions(config.hidden_size, config.input_size // config.patch_size)
    if not torch.equal(model.pos_embed.float().cpu(), positions):
        distance = float((model.pos_embed.float().cpu() - positions).abs().max())
        raise Unsupported(
            f"pos_embed differs by up to {distance:.2g} from the sin-cos table that diffusers computes anew, so its"
            " model would compute another function; keep such a model in our own format"
        )


def to_diffusers(model: DiT, folder: Path | None = None) -> nn.Module:
    """Convert our DiT to a DiTTransformer2DModel in eval mode with the same function.

    It is also written to `folder` if given. Raises Unsupported for models that diffusers cannot represent (see
    `require_convertible`).
    """
    from diffusers import DiTTransformer2DModel  # takes seconds to import, needed here only

    require_convertible(model)
    config = model.config
    with torch.random.fork_rng(devices=[]):  # its random initialization is overwritten and must leave no trace
        module: Any = DiTTransformer2DModel(
            num_attention_heads=config.num_heads,
            attention_head_dim=config.hidden_size // config.num_heads,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            num_layers=config.depth,
            sample_size=config.input_size,
            patch_size=config.patch_size,
            num_embeds_ada_norm=config.num_classes,
            norm_eps=1e-6,
        )
    state = model.state_dict()
    pairs = key_map(config.depth).items()
    module.load_state_dict(
        {theirs: state[ours] if third is None else state[ours].chunk(3)[third] for theirs, (ours, third) in pairs}
    )
    module.eval()
    use_original_frequencies(module)
    if folder is not None:
        write_json(folder / CONFIG_FILE, json.loads(module.to_json_string()))
        save_tensors(folder / WEIGHTS_FILE, module.state_dict())
    return module
