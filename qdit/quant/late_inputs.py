"""Lets quantized layers compute the modulated LayerNorm or the GELU before them in the pass that quantizes, on GPUs.

`defer` is for prepared models, `defer_unprepared` for models that can still be saved. Both set attributes only: modules
and tensors stay. On CPUs nothing changes, to the bit. A layer takes part if it has an attribute `takes_late` that is
true. One whose quantizer has no such kernel (ranges by timestep, twin uniform, …) computes its input in a pass of its
own, with the same bits.
"""

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from torch import nn

from qdit.kernels.late import LateGelu, late_norm, late_or_fused_norm
from qdit.models import stdit3
from qdit.models.dit import DiTBlock, FinalLayer, Mlp, ModulatedLayerNorm

M = TypeVar("M", bound=nn.Module)


def defer(model: M) -> M:
    """For a model of `prepare_inference`, in place: its linears compute the GELU after them."""
    for norm in norms_before_quantizers(model):
        norm.fused = cast(Any, late_or_fused_norm)
    for module in mlps(model):
        first: Any = module.fc1  # its own GELU comes after a branch; that of its dense linear is a part of the product
        for linear in (first, getattr(first, "dense", None)):
            if linear is not None:
                linear.late = True
    return model


def defer_unprepared(model: M) -> M:
    """For a model that is not prepared, in place: its LayerNorms and GELUs are modules of their own."""
    for norm in norms_before_quantizers(model):
        norm.fused = cast(Any, late_norm)
    for module in mlps(model):
        module.act = LateGelu()
    return model


def norms_before_quantizers(model: nn.Module) -> Iterator[ModulatedLayerNorm]:
    """Modulated LayerNorms of a DiT or STDiT3 whose next layer takes inputs that are not computed yet."""
    for module in model.modules():
        if isinstance(module, DiTBlock | stdit3.STDiT3Block):
            pairs = [(module.norm1, module.attn.qkv), (module.norm2, module.mlp.fc1)]
        elif isinstance(module, FinalLayer | stdit3.FinalLayer):
            pairs = [(module.norm_final, module.linear)]
        else:
            continue
        yield from (norm for norm, linear in pairs if takes_late(linear))


def mlps(model: nn.Module) -> Iterator[Mlp]:
    """MLPs whose second linear takes inputs that are not computed yet."""
    for module in model.modules():
        if isinstance(module, Mlp) and takes_late(module.fc2):
            yield module


def takes_late(layer: nn.Module) -> bool:
    """Whether a layer takes inputs that are not computed yet: its input is quantized."""
    return bool(getattr(layer, "takes_late", False))
