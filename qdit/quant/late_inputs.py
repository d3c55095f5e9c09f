"""Lets quantized layers on GPUs compute the LayerNorm or GELU of their input in the pass that quantizes.

`defer` is for models after `prepare_inference`, `defer_unprepared` for models that can still be saved. Both only set
attributes: modules and tensors stay. On CPUs nothing changes, to the bit. A layer takes part if its attribute
`takes_late` is true. If no kernel exists for the quantizer of a layer (ranges by timestep, twin uniform, …), the layer
computes its input in a separate pass, with the same bits.
"""

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from torch import nn

from qdit.kernels.late import LateGelu, late_norm, late_or_fused_norm
from qdit.models import stdit3
from qdit.models.dit import DiTBlock, FinalLayer, Mlp, ModulatedLayerNorm

M = TypeVar("M", bound=nn.Module)


def defer(model: M) -> M:
    """Let each quantized layer also compute the LayerNorm or GELU whose output is its input.

    Call `prepare_inference` first. The model itself is changed and returned.
    """
    for norm in norms_before_quantizers(model):
        norm.fused = cast(Any, late_or_fused_norm)
    for module in mlps(model):
        first: Any = module.fc1  # its own GELU comes after a branch; that of its dense linear is a part of the product
        for linear in (first, getattr(first, "dense", None)):
            if linear is not None:
                linear.late = True
    return model


def defer_unprepared(model: M) -> M:
    """Do what `defer` does for a model without `prepare_inference`, whose LayerNorms and GELUs are separate modules."""
    for norm in norms_before_quantizers(model):
        norm.fused = cast(Any, late_norm)
    for module in mlps(model):
        module.act = LateGelu()
    return model


def norms_before_quantizers(model: nn.Module) -> Iterator[ModulatedLayerNorm]:
    """Return the modulated LayerNorms of a DiT or STDiT3 whose next layer can compute them itself."""
    for module in model.modules():
        if isinstance(module, DiTBlock | stdit3.STDiT3Block):
            pairs = [(module.norm1, module.attn.qkv), (module.norm2, module.mlp.fc1)]
        elif isinstance(module, FinalLayer | stdit3.FinalLayer):
            pairs = [(module.norm_final, module.linear)]
        else:
            continue
        yield from (norm for norm, linear in pairs if takes_late(linear))


def mlps(model: nn.Module) -> Iterator[Mlp]:
    """Return the MLPs whose second linear takes the input of the GELU, and computes the GELU itself."""
    for module in model.modules():
        if isinstance(module, Mlp) and takes_late(module.fc2):
            yield module


def takes_late(layer: nn.Module) -> bool:
    """Whether a layer accepts an input that is not computed yet. Its input must be quantized."""
    return bool(getattr(layer, "takes_late", False))
