"""Size in MB of a quantized DiT or STDiT3: by the formula of Q-DiT's paper, predicted from shapes, and from a file.

MB is 10^6 bytes. The paper's formula is (N · bits / 8 + 4 · U) / 10^6. N is the number of all parameters without the
position embedding, also of those that stay in floating point. U is the number of (scale, zero point) pairs. A pair
takes 4 bytes.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.errors import CheckpointError, ConfigError, did_you_mean
from qdit.core.grouping import check_group_size, packed_width
from qdit.core.run import FULL_PRECISION_BITS
from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.roles import CORE_ROLES
from qdit.quant.folder import DIFFUSERS_TENSORS_FILE, TENSORS_FILE

PAIR_BYTES = 4
"""A float16 scale and a 16-bit zero point."""

GroupSizes = int | None | Mapping[str, int | None]
"""One size for all searched layers, one per layer by name, or None: per output channel."""


@dataclass(frozen=True)
class Linear:
    """Shape of one linear layer with bias. A convolution counts as a linear over its flattened patch."""

    name: str
    role: str
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Number of weights and biases of the layer."""
        return (self.inputs + 1) * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """Numbers of parameters that decide a model's size: its layers, its position embedding, and everything else.

    Everything else is the label table of a DiT, or the modulation tables and norms of an STDiT3.
    """

    linears: tuple[Linear, ...]
    others: int
    positions: int

    @property
    def parameters(self) -> int:
        """Number of all parameters without the position embedding."""
        return self.others + sum(linear.parameters for linear in self.linears)

    def with_roles(self, roles: Collection[str]) -> list[Linear]:
        """Return the layers that have one of these roles."""
        return [linear for linear in self.linears if linear.role in roles]


def dit_shape(config: DiTConfig) -> ModelShape:
    """List the layers of a DiT with their shapes. Their names are those of the model's sites."""
    width, hidden = config.hidden_size, config.mlp_ratio * config.hidden_size
    patch = config.patch_size**2
    linears = [
        Linear("x_embedder.proj", "patch_embed", config.in_channels * patch, width),
        Linear("t_embedder.mlp.0", "time_embed", config.frequency_size, width),
        Linear("t_embedder.mlp.2", "time_embed", width, width),
    ]
    for block in range(config.depth):
        linears += [
            Linear(f"blocks.{block}.attn.qkv", "qkv", width, 3 * width),
            Linear(f"blocks.{block}.attn.proj", "attn_out", width, width),
            Linear(f"blocks.{block}.mlp.fc1", "fc1", width, hidden),
            Linear(f"blocks.{block}.mlp.fc2", "fc2", hidden, width),
            Linear(f"blocks.{block}.adaLN_modulation.1", "adaln", width, 6 * width),
        ]
    linears += [
        Linear("final_layer.linear", "final", width, patch * config.out_channels),
        Linear("final_layer.adaLN_modulation.1", "final_adaln", width, 2 * width),
    ]
    table = (config.num_classes + 1) * width
    return ModelShape(tuple(linears), others=table, positions=config.tokens * width)


def stdit3_shape(config: STDiT3Config) -> ModelShape:
    """List the layers of an STDiT3 with their shapes. Their names are those of the model's sites.

    Positions are computed, so none are stored.
    """
    width, hidden = config.hidden_size, config.mlp_ratio * config.hidden_size
    cells = config.frame_patch * config.patch_size**2
    linears = [Linear("x_embedder.proj", "patch_embed", config.in_channels * cells, width)]
    for name, role in (("t_embedder", "time_embed"), ("fps_embedder", "fps_embed")):
        linears += [Linear(f"{name}.mlp.0", role, config.frequency_size, width)]
        linears += [Linear(f"{name}.mlp.2", role, width, width)]
    linears += [
        Linear("t_block.1", "t_block", width, 6 * width),
        Linear("y_embedder.y_proj.fc1", "caption_proj", config.text_width, width),
        Linear("y_embedder.y_proj.fc2", "caption_proj", width, width),
    ]
    for block in (f"{kind}_blocks.{number}" for number in range(config.depth) for kind in ("spatial", "temporal")):
        linears += [
            Linear(f"{block}.attn.qkv", "qkv", width, 3 * width),
            Linear(f"{block}.attn.proj", "attn_out", width, width),
            Linear(f"{block}.cross_attn.q_linear", "cross_q", width, width),
            Linear(f"{block}.cross_attn.kv_linear", "cross_kv", width, 2 * width),
            Linear(f"{block}.cross_attn.proj", "cross_out", width, width),
            Linear(f"{block}.mlp.fc1", "fc1", width, hidden),
            Linear(f"{block}.mlp.fc2", "fc2", hidden, width),
        ]
    linears.append(Linear("final_layer.linear", "final", width, cells * config.out_channels))
    tables, norms = 6 * width, 2 * config.head_size
    return ModelShape(tuple(linears), others=2 * config.depth * (tables + norms) + 2 * width, positions=0)


SHAPES: Mapping[str, Callable[[Any], ModelShape]] = {DiTConfig.family: dit_shape, STDiT3Config.family: stdit3_shape}
"""Name of a family → the layers of a configuration."""


def shape_of(config: DiTConfig | STDiT3Config) -> ModelShape:
    """List the layers of a DiT or an STDiT3 with their shapes."""
    return SHAPES[config.family](config)


def size_paper_mb(config: DiTConfig | STDiT3Config, *, weight_bits: int, group_sizes: GroupSizes = None) -> float:
    """Compute the size in MB as Q-DiT's Table 2 does, before truncation (`printed_mb`).

    For DiT-XL/2 the paper's rows are 1349, 508, 339, 520 and 351. With one range per channel, U counts the output
    channels of all linears of the blocks and of adaLN (for an STDiT3 of the t_block, which replaces adaLN). With
    groups, U counts only the groups of the linears for which a search chooses sizes. 16 bits mean full precision, and U
    is 0. Layers that a method leaves in floating point change nothing here. Raises ConfigError for bits or group sizes
    that are not possible.
    """
    if weight_bits != FULL_PRECISION_BITS and not 1 <= weight_bits <= 8:
        raise ConfigError(f"weight_bits {weight_bits}: allowed are 1 to 8, or 16 for full precision")
    shape = shape_of(config)
    if weight_bits == FULL_PRECISION_BITS:
        pairs = 0
    elif group_sizes is None:
        pairs = sum(linear.outputs for linear in shape.with_roles((*CORE_ROLES, "adaln", "t_block")))
    else:
        pairs = sum(weight_pairs(layer, size) for layer, size in sized(shape.with_roles(CORE_ROLES), group_sizes))
    return (shape.parameters * weight_bits / 8 + PAIR_BYTES * pairs) / 1e6


def size_counted_mb(
    config: DiTConfig | STDiT3Config, *, weight_bits: int, sites: Mapping[str, Mapping[str, Any]]
) -> float:
    """Compute a checkpoint's size in MB by the paper's formula, plus the bytes that the formula does not count.

    A site may add bytes: block scales and tables of a weight that is not uniform, a transform, and the 16-bit factors
    of a branch. They count as they are stored. Weights that are not uniform count with their own number of bits. U
    counts the pairs of the uniform weights of all sites; if all weights are uniform, U is that of `size_paper_mb`.
    """
    core = {layer.name for layer in shape_of(config).with_roles(CORE_ROLES)}
    sizes = {
        name: site["shape"][1] // site["groups"][1] if site["groups"][1] > 1 else None
        for name, site in sites.items()
        if site["groups"] and name in core
    }
    extra = sum(sum(site.get("extra_bytes", {}).values()) for site in sites.values())
    other = [site for site in sites.values() if site.get("weight")]
    if not other:
        grouped = sizes if any(sizes.values()) else None
        return size_paper_mb(config, weight_bits=weight_bits, group_sizes=grouped) + extra / 1e6
    pairs = sum(site["groups"][0] * site["groups"][1] for site in sites.values() if site["groups"])
    bits = sum((site["weight_bits"] - weight_bits) * site["shape"][0] * site["shape"][1] for site in other)
    return ((shape_of(config).parameters * weight_bits + bits) / 8 + PAIR_BYTES * pairs + extra) / 1e6


def printed_mb(size_mb: float) -> int:
    """Truncate the size to a whole number, as the paper's table prints it."""
    return int(size_mb)


def size_predicted_mb(
    config: DiTConfig | STDiT3Config,
    *,
    weight_bits: int,
    group_sizes: GroupSizes = None,
    roles: Collection[str] = CORE_ROLES,
    float_bits: int = 16,
    positions: bool = True,
) -> float:
    """Predict the size in MB of the tensors in a checkpoint, from shapes.

    Layers with these roles count packed codes and 4 bytes per group. All other tensors have `float_bits` for each
    element. The position embedding counts if `positions` is true. Activation quantizers and file headers do not count.
    """
    shape = shape_of(config)
    quantized = shape.with_roles(roles) if weight_bits != FULL_PRECISION_BITS else []
    rest = shape.parameters + (shape.positions if positions else 0)
    packed = 0
    for layer, size in sized(quantized, group_sizes):
        rest -= layer.inputs * layer.outputs
        packed += layer.outputs * packed_width(layer.inputs, weight_bits) + PAIR_BYTES * weight_pairs(layer, size)
    return (packed + rest * float_bits / 8) / 1e6


def size_actual_mb(folder: Path) -> float:
    """Return the size in MB of the file of tensors in a checkpoint folder."""
    file = folder / TENSORS_FILE
    in_diffusers = folder / DIFFUSERS_TENSORS_FILE
    file = in_diffusers if not file.is_file() and in_diffusers.is_file() else file
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; check the path or run `qdit quantize`")
    return file.stat().st_size / 1e6


def weight_pairs(layer: Linear, group_size: int | None) -> int:
    """Count the (scale, zero point) pairs of a layer: one per output channel, or one per group and output channel."""
    if group_size is None:
        return layer.outputs
    check_group_size(group_size, layer.inputs, layer.name)
    return layer.outputs * (layer.inputs // group_size)


def sized(layers: list[Linear], group_sizes: GroupSizes) -> list[tuple[Linear, int | None]]:
    """Return each layer with its group size. ConfigError unless an allocation names exactly these layers."""
    if not isinstance(group_sizes, Mapping):
        return [(layer, group_sizes) for layer in layers]
    names = [layer.name for layer in layers]
    for name in group_sizes:
        if name not in names:
            raise ConfigError(f"allocation: {name!r} is not a quantized layer{did_you_mean(name, names)}")
    if missing := [name for name in names if name not in group_sizes]:
        raise ConfigError(f"allocation: {len(missing)} layers have no group size, the first is {missing[0]}; add them")
    return [(layer, group_sizes[layer.name]) for layer in layers]
