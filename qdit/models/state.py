"""Check the state dict of a DiT. Its tensor shapes give the configuration, and every tensor is checked.

Names and shapes are those of the official checkpoints (facebookresearch/DiT; for STDiT3 see stdit3_state.py). Nothing
is guessed, dropped or converted silently. Every difference from the configuration is a CheckpointError with the
tensor's name.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, ConfigError, Unsupported, did_you_mean
from qdit.core.files import require_finite
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT, ModulatedLayerNorm
from qdit.models.network import Network, NetworkConfig

C = TypeVar("C", bound=NetworkConfig)
M = TypeVar("M", bound=nn.Module)

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Dtypes that weights may have in a file; in memory they are float32."""

FAMILY_HEADS = {(384, 12): 6, (768, 12): 12, (1024, 24): 16, (1152, 28): 16}
"""(hidden_size, depth) → num_heads of DiT-S, B, L and XL: heads cannot be read from shapes."""

LARGEST = 2**16
"""No setting of a DiT is larger: a file that claims more is refused before memory is allocated."""

PLAIN_MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "embedding": (nn.Embedding,),
    "conv": (nn.Conv2d, nn.Conv3d),
    "operand": (nn.Identity,),
    "modulate": (ModulatedLayerNorm,),
}


def listed(names: Collection[str], limit: int = 3) -> str:
    """List the first names in a text, and say how many more there are."""
    shown = ", ".join(sorted(names)[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def positive_integers(values: Mapping[str, Any], names: Collection[str], *, where: str) -> dict[str, int]:
    """Pick the named entries of a mapping. CheckpointError unless each is an integer from 1 to 65536."""
    for name in names:
        value = values.get(name)
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise CheckpointError(
                f"{where}: {name} is {value!r:.60}, must be an integer from 1 to {LARGEST}; restore the file or make it"
                " again"
            )
    return {name: values[name] for name in names}


def checked_config(values: Mapping[str, Any], kind: type[C], *, where: str) -> C:
    """Build a configuration of class `kind` from these values.

    A ConfigError becomes a CheckpointError about the file.
    """
    try:
        return kind(**values)
    except ConfigError as problem:
        raise CheckpointError(f"{where}: {problem}; restore the file or make it again") from None


def read_config(values: Any, kind: type[C], *, where: str) -> C:
    """Build a configuration of class `kind` from a dictionary in a file.

    Raises CheckpointError unless the dictionary has exactly the fields of the class, as positive integers or booleans.
    """
    flags = [field.name for field in fields(kind) if field.type is bool]
    numbers = [field.name for field in fields(kind) if field.type is not bool]
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where}: the model's configuration is {values!r:.60}, must be an object; make it again")
    for name in values:
        if name not in (*numbers, *flags):
            allowed = [field.name for field in fields(kind)]
            raise CheckpointError(
                f"{where}: unknown model setting {name!r}{did_you_mean(name, allowed)}; allowed are"
                f" {', '.join(allowed)}"
            )
    for name in flags:
        if type(values.get(name)) is not bool:
            raise CheckpointError(
                f"{where}: {name} is {values.get(name)!r:.60}, must be true or false; restore the file or make it again"
            )
    fields_of_file = positive_integers(values, numbers, where=where) | {name: values[name] for name in flags}
    return checked_config(fields_of_file, kind, where=where)


def shape_of(
    shapes: Mapping[str, tuple[int, ...]], name: str, dimensions: int, *, of: str, where: str
) -> tuple[int, ...]:
    """Shape of the tensor `name`. CheckpointError if it is missing or has not `dimensions` dimensions.

    `of` says in the message what the tensor belongs to.
    """
    shape = shapes.get(name)
    if shape is None or len(shape) != dimensions or 0 in shape:
        raise CheckpointError(
            f"{where}: tensor {name} is {'missing' if shape is None else f'of shape {shape}'}, {of} has one with"
            f" {dimensions} dimensions; found {len(shapes)} tensors ({listed(shapes)}): give the weights of {of}"
        )
    return shape


def infer_config(
    shapes: Mapping[str, tuple[int, ...]], *, where: str, num_heads: int | None = None
) -> tuple[DiTConfig, dict[str, int]]:
    """Derive a DiT's configuration from the tensor shapes of a state dict. Also return the assumed values.

    No shape gives `num_heads`. If the caller does not give it either, the heads of the published DiT of this width and
    depth are assumed. For any other width and depth a CheckpointError is raised.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        return shape_of(shapes, name, dimensions, of="a DiT", where=where)

    hidden, channels, patch, _ = shape("x_embedder.proj.weight", 4)
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    rows = shape("y_embedder.embedding_table.weight", 2)[0]
    if rows < 2:
        raise CheckpointError(
            f"{where}: the label table has {rows} row, a DiT has one for each class and one for no class (guidance);"
            " an unconditional model cannot be used"
        )
    outputs, wanted = shape("final_layer.linear.weight", 2)[0], 2 * channels * patch**2
    if outputs == wanted // 2:
        raise CheckpointError(
            f"{where}: final_layer.linear has {outputs} outputs, {wanted} are needed: this DiT was trained without"
            " learned variance (learn_sigma=False); only DiTs with it can be used"
        )
    values = {
        "input_size": math.isqrt(shape("pos_embed", 3)[1]) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": hidden,
        "depth": depth,
        "num_heads": num_heads or FAMILY_HEADS.get((hidden, depth)) or 1,
        "mlp_ratio": shape("blocks.0.mlp.fc1.weight", 2)[0] // hidden,
        "num_classes": rows - 1,
        "frequency_size": shape("t_embedder.mlp.0.weight", 2)[1],
    }
    config = checked_config(positive_integers(values, list(values), where=where), DiTConfig, where=where)
    if num_heads is None and (hidden, depth) not in FAMILY_HEADS:
        raise CheckpointError(
            f"{where}: {hidden} wide and {depth} deep is none of DiT-S, B, L, XL and the number of heads is not in the"
            f" file: state it, as in qdit import-weights {where} OUT --shape '{{\"num_heads\": …}}', or pass num_heads"
        )
    return config, {} if num_heads else {"num_heads": config.num_heads}


def defining_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of tensors that together decide the configuration, except the number of heads.

    They are checked before a module is built.
    """
    hidden, patch = config.hidden_size, config.patch_size
    return {
        "x_embedder.proj.weight": (hidden, config.in_channels, patch, patch),
        "pos_embed": (1, config.tokens, hidden),
        "t_embedder.mlp.0.weight": (hidden, config.frequency_size),
        "y_embedder.embedding_table.weight": (config.num_classes + 1, hidden),
        "blocks.0.mlp.fc1.weight": (config.mlp_ratio * hidden, hidden),
        f"blocks.{config.depth - 1}.mlp.fc1.weight": (config.mlp_ratio * hidden, hidden),
    }


def check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Raise CheckpointError if a tensor has another shape than expected. Missing tensors are not an error here."""
    for name, shape in expected.items():
        if name in state and tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"{where}: tensor {name} has shape {tuple(state[name].shape)}, expected {shape}: these are weights of a"
                " model of another shape; give the weights that belong to this configuration"
            )


def check_names(names: Collection[str], expected: Collection[str], *, where: str) -> None:
    """Raise CheckpointError if an expected tensor is missing or an unexpected tensor is present."""
    faults = []
    if missing := set(expected) - set(names):
        faults.append(f"{len(missing)} tensors are missing ({listed(missing)})")
    if unexpected := set(names) - set(expected):
        faults.append(f"{len(unexpected)} are not expected ({listed(unexpected)})")
    if faults:
        raise CheckpointError(
            f"{where}: {' and '.join(faults)}; the model has exactly {len(expected)}: give the weights that belong to"
            " this configuration"
        )


def check_tensors(state: Mapping[str, Any], *, where: str) -> None:
    """Raise CheckpointError unless every value is a tensor."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: {name} is a {type(value).__name__}, expected a tensor; give a state dict")


def check_values(state: Mapping[str, Tensor], *, where: str) -> None:
    """Raise CheckpointError unless every value is a tensor of floating-point numbers that are finite in float32."""
    for name, tensor in state.items():
        if tensor.dtype not in FLOATS or tensor.layout is not torch.strided or tensor.is_meta:
            raise CheckpointError(
                f"{where}: tensor {name} has dtype {str(tensor.dtype).removeprefix('torch.')}, allowed are dense"
                f" {', '.join(str(d).removeprefix('torch.') for d in FLOATS)}; give the unquantized weights"
            )
        require_finite(f"{where}: tensor {name}", tensor.float(), error=CheckpointError)


def build(state: Mapping[str, Tensor], config: DiTConfig, *, where: str) -> DiT:
    """Build a DiT in eval mode with float32 copies of these tensors. CheckpointError if anything does not fit.

    `state` must have exactly the tensors of `config`, with the official names. `where` starts the error messages.
    """
    return load_strictly(state, lambda: DiT(config), defining_shapes(config), depth=config.depth, where=where)


def load_strictly(
    state: Mapping[str, Tensor],
    make: Callable[[], M],
    defining: Mapping[str, tuple[int, ...]],
    *,
    depth: int,
    where: str,
) -> M:
    """Build a module by `make()`, in eval mode, with float32 copies of exactly these tensors.

    The `defining` shapes are checked before `make` is called, so that a file cannot make it build a huge module.
    `depth` is the number of blocks.
    """
    check_tensors(state, where=where)
    if missing := [name for name in defining if name not in state]:
        raise CheckpointError(
            f"{where}: tensors are missing ({listed(missing)}), the configuration says {depth} blocks; found"
            f" {len(state)} tensors ({listed(state)}): give the weights that belong to this configuration"
        )
    check_shapes(state, defining, where=where)
    with torch.device("meta"):
        model = make()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_names(state, expected, where=where)
    check_shapes(state, expected, where=where)
    check_values(state, where=where)
    model.load_state_dict(
        {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in state.items()}, assign=True
    )
    return model.eval()


def require_plain(model: Network) -> None:
    """Raise Unsupported if the model is quantized: some of its sites were replaced."""
    for site in model.sites():
        module = model.get_submodule(site.name)
        if type(module) not in PLAIN_MODULES[site.kind]:
            raise Unsupported(
                f"site {site.name} is a {type(module).__name__}: only an unquantized model can be written as plain"
                " weights; save a quantized one with qdit.quant.checkpoint"
            )
