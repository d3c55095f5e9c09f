"""Fold sources of blocks: the layers that can absorb a factor for each input channel of a linear.

FLUX, SD3, Qwen-Image and CogVideoX have a modulation linear in each block, which absorbs it. PixArt, Wan, Latte,
LTX-Video, Sana, Chroma and FLUX.2 have one modulation for all blocks, so the linears divide their input themselves. All
paths are relative to the block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from torch import nn

from qdit.models.generic.family import FoldSources
from qdit.models.roles import FoldSource, ModulationRows, NormWeights, OwnInput, ValueRows

Linears = Mapping[str, nn.Linear | nn.Conv2d]
"""Path inside a block → linear, or convolution over single cells."""

QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


@dataclass(frozen=True)
class Modulated:
    """Linears of a block that read LN(x)(1 + scale) + shift, and the modulation linear that gives shift and scale.

    The modulation linear's rows are divided into `chunks` equal parts. `shift` and `scale` are part numbers. `others`
    are the (shift, scale) part numbers of further token streams, such as text, that the same linears read.
    """

    linear: str
    chunks: int
    shift: int
    scale: int
    inputs: tuple[str, ...]
    others: tuple[tuple[int, int], ...] = ()

    def source(self, path: str, _block: nn.Module, linears: Linears) -> FoldSource | None:
        """Rows of the modulation linear that absorb a factor, for the block at `path`.

        None if the modulation linear is absent or has no bias. Also None if its number of rows is not `chunks` times
        the width of the inputs.
        """
        modulation, inputs = linears.get(self.linear), [name for name in self.inputs if name in linears]
        width = linears[inputs[0]].weight.shape[1] if inputs else 0
        if modulation is None or len(modulation.weight) != self.chunks * width or modulation.bias is None:
            return None
        name = f"{path}.{self.linear}"

        def rows(part: int) -> tuple[int, int]:
            return part * width, (part + 1) * width

        others = tuple(ModulationRows(name, rows(shift), rows(scale)) for shift, scale in self.others)
        return ModulationRows(name, rows(self.shift), rows(self.scale), others)


@dataclass(frozen=True)
class Normed:
    """Linears of a block that read the output of a LayerNorm or RMSNorm which has a weight.

    The input may be multiplied by a modulation after the norm. `shift` is a linear whose output is added.
    """

    norm: str
    inputs: tuple[str, ...]
    shift: str | None = None

    def source(self, path: str, block: nn.Module, _linears: Linears) -> FoldSource | None:
        """The norm that absorbs a factor, for the block at `path`. None if it has no weight, or is of another kind."""
        norm = dict(block.named_modules()).get(self.norm)
        is_norm = isinstance(norm, nn.LayerNorm) or type(norm).__name__ == "RMSNorm"
        if not is_norm or getattr(norm, "weight", None) is None:
            return None
        return NormWeights(f"{path}.{self.norm}", None if self.shift is None else f"{path}.{self.shift}")


@dataclass(frozen=True)
class Modulating:
    """Linears of a block with the same input.

    Its modulation is a table of the block plus a value that all blocks share. No layer can absorb a factor for one
    block, so these linears divide their input themselves.
    """

    inputs: tuple[str, ...]

    def source(self, path: str, _block: nn.Module, _linears: Linears) -> FoldSource | None:
        """The input transform of these linears, which absorbs a factor, for the block at `path`."""
        return OwnInput(f"{path}.{self.inputs[0]}")


def attention(name: str, linears: Sequence[str]) -> tuple[str, ...]:
    """Paths `name.linear` of the linears of the attention module `name`."""
    return tuple(f"{name}.{linear}" for linear in linears)


def modulated_sources(
    *entries: Modulated | Normed | Modulating, values: Mapping[str, str] | None = None
) -> FoldSources:
    """Make a function that gives the fold source of each linear of a block, from these entries.

    `values` maps the output projection of an attention to the linear that computes its V, which absorbs the
    projection's factor. An entry is ignored for blocks that lack its linears or have another number of parts.
    """

    def sources(path: str, block: nn.Module) -> dict[str, FoldSource]:
        linears = {name: module for name, module in block.named_modules() if is_linear(module)}
        result: dict[str, FoldSource] = {}
        for entry in entries:
            inputs = [name for name in entry.inputs if name in linears]
            source = entry.source(path, block, linears) if inputs else None
            if source is not None:
                result |= {f"{path}.{name}": source for name in inputs}
        for output, value in (values or {}).items():
            is_alone = f"{value.rpartition('.')[0]}.add_v_proj" not in linears  # V of other tokens (Wan, AuraFlow)
            width = linears[output].weight.shape[1] if output in linears else 0
            if is_alone and value in linears and len(linears[value].weight) == width:
                result[f"{path}.{output}"] = ValueRows(f"{path}.{value}", (0, width))
        return result

    return sources


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Whether a module is a linear, or a convolution over single cells."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


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

VALUES = {f"{name}.to_out.0": f"{name}.to_v" for name in ("attn1", "attn2")}
"""Output projections of self-attention and cross-attention, and their V."""

SHARED_MODULATION = modulated_sources(
    Modulating(attention("attn1", QKV)), Modulating(("ff.net.0.proj",)), values=VALUES
)
"""Blocks that add a table of their own to one modulation of all blocks: PixArt, Latte, LTX-Video."""
