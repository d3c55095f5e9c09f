"""Fold sources of blocks that have their own modulation linear: FLUX, SD3, Qwen-Image and similar models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from qdit.models.generic.family import FoldSources
from qdit.models.roles import FoldSource, ModulationRows, ValueRows

QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


@dataclass(frozen=True)
class Modulated:
    """Linears of a block whose input is LN(x)(1 + scale) + shift, and the linear that gives both.

    Its rows are `chunks` equal parts. `shift` and `scale` are numbers of parts. All paths are inside the block.
    """

    linear: str
    chunks: int
    shift: int
    scale: int
    inputs: tuple[str, ...]


def attention(name: str, linears: Sequence[str]) -> tuple[str, ...]:
    """Paths of linears of an attention."""
    return tuple(f"{name}.{linear}" for linear in linears)


def modulated_sources(*entries: Modulated, values: Mapping[str, str] | None = None) -> FoldSources:
    """The fold sources of blocks with these modulated linears.

    `values` gives the linear of V for each output projection of an attention to the tokens themselves. An entry whose
    linears a block does not have, or with another number of parts, is ignored for this block.
    """

    def sources(path: str, block: nn.Module) -> dict[str, FoldSource]:
        linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        result: dict[str, FoldSource] = {}
        for entry in entries:
            inputs = [name for name in entry.inputs if name in linears]
            if not inputs or entry.linear not in linears:
                continue
            width, modulation = linears[inputs[0]].in_features, linears[entry.linear]
            if modulation.out_features != entry.chunks * width or modulation.bias is None:
                continue
            rows = [(part * width, (part + 1) * width) for part in (entry.shift, entry.scale)]
            source = ModulationRows(f"{path}.{entry.linear}", shift=rows[0], scale=rows[1])
            result |= {f"{path}.{name}": source for name in inputs}
        for output, value in (values or {}).items():
            if output in linears and value in linears and linears[value].bias is not None:
                result[f"{path}.{output}"] = ValueRows(f"{path}.{value}", (0, linears[value].out_features))
        return result

    return sources


IMAGE = (
    Modulated("norm1.linear", 6, 0, 1, attention("attn", QKV)),
    Modulated("norm1.linear", 6, 3, 4, ("ff.net.0.proj",)),
)
TEXT = (
    Modulated("norm1_context.linear", 6, 0, 1, attention("attn", ADDED)),
    Modulated("norm1_context.linear", 6, 3, 4, ("ff_context.net.0.proj",)),
)
SINGLE = (Modulated("norm.linear", 3, 0, 1, (*attention("attn", QKV), "proj_mlp")),)

TWO_STREAMS = modulated_sources(*IMAGE, *TEXT, *SINGLE)
"""Blocks with AdaLayerNormZero for image and text, then blocks with AdaLayerNormZeroSingle: FLUX, HunyuanVideo."""
