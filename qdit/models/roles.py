"""Sites: modules of a model that a method may replace. A method selects them by role, not by path.

`model.sites()` lists the sites. A method selects those whose role its paper quantizes and puts its own modules in their
place with `replace`. The new module has the same inputs and outputs as the old one.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

Kind = Literal["linear", "conv", "pointwise", "embedding", "operand", "modulate"]
"""`pointwise` is a convolution over single cells (Sana's MLP): a linear whose channels come second, not last."""

CORE_ROLES = (
    *("qkv", "attn_out", "cross_q", "cross_kv", "cross_out", "fc1", "fc2"),
    *("txt_qkv", "txt_attn_out", "txt_fc1", "txt_fc2", "qkv_fc1", "out_fc2"),
)
"""The linears of a block (four of a DiT, seven of an STDiT3): scope `common`, the same for every method.

The second line is for transformers of diffusers (docs/any-model.md): `txt_` is the text stream of a block with two
streams, and `qkv_fc1` and `out_fc2` are one linear in the place of two, in blocks whose attention and MLP run side by
side.
"""


@dataclass(frozen=True)
class ModulationRows:
    """Rows of an adaLN linear that give the shift and scale before a site's input (per input channel).

    `others` are rows for tokens of other streams that the site also reads: the text tokens of CogVideoX.
    """

    linear: str
    shift: tuple[int, int]
    scale: tuple[int, int]
    others: tuple["ModulationRows", ...] = ()


@dataclass(frozen=True)
class ValueRows:
    """Rows of the qkv linear that give V, whose per-channel factor passes through attention unchanged."""

    linear: str
    rows: tuple[int, int]


@dataclass(frozen=True)
class SharedModulation:
    """The modulate site before a linear, if all blocks share the linear that gives shift and scale (STDiT3).

    The shared linear cannot absorb a factor for one block, so the modulate site itself absorbs it.
    """

    modulate: str


@dataclass(frozen=True)
class NormWeights:
    """A LayerNorm or RMSNorm with weights of its own, whose output is a site's input (cross-attention of Wan).

    The input may be multiplied by a modulation after the norm (Lumina 2). `shift` is a linear whose output is added to
    that of the norm (HunyuanDiT). A norm without a bias absorbs the factor alone.
    """

    norm: str
    shift: str | None = None


@dataclass(frozen=True)
class OwnInput:
    """No module gives a site's input: the class itself adds one modulation of all blocks to a table of the block.

    So no layer can absorb a factor for one block. The sites with this input absorb it themselves: each has an input
    transform (PixArt, Wan). `name` is a name for the input, which these sites have in common.
    """

    name: str


FoldSource = ModulationRows | ValueRows | SharedModulation | NormWeights | OwnInput


@dataclass(frozen=True)
class Site:
    """One replaceable submodule: its path, its role, the block it is in (None outside the blocks).

    `inside` is the path of the block, empty for a whole model that is one block. Only transformers of diffusers state
    it: in a DiT and an STDiT3 it is the first two parts of the name.
    """

    name: str
    role: str
    kind: Kind
    block: int | None = None
    fold_source: FoldSource | None = None
    inside: str | None = None

    @property
    def block_path(self) -> str:
        """Path of the block that the site is in."""
        return ".".join(self.name.split(".")[:2]) if self.inside is None else self.inside


class HasSites(Protocol):
    """Interface of a model for methods: it lists its sites."""

    def sites(self) -> list[Site]: ...


class StepContext:
    """The timestep of each row of the current forward pass; sites may hold a reference and read it."""

    def __init__(self) -> None:
        self.timestep: torch.Tensor | None = None


def select(
    sites: Iterable[Site], *, roles: Collection[str] | None = None, kinds: Collection[Kind] | None = None
) -> list[Site]:
    """Sites with one of the roles and kinds (None: any), in the model's order."""
    return [s for s in sites if (roles is None or s.role in roles) and (kinds is None or s.kind in kinds)]


def linear_of(model: "nn.Module", site: Site | str) -> "nn.Linear":
    """The linear at a site, or the quantized module in its place, which has the same weight and bias."""
    return cast("nn.Linear", model.get_submodule(site if isinstance(site, str) else site.name))


def matrix_of(model: "nn.Module", site: Site | str) -> "torch.Tensor":
    """The weight at a site as (out, in), without gradients. That of a convolution is (out, in · kernel cells)."""
    return linear_of(model, site).weight.detach().flatten(1)


def replace(model: "nn.Module", site: Site | str, module: "nn.Module") -> None:
    """Put `module` in the place of the site."""
    name = site if isinstance(site, str) else site.name
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
