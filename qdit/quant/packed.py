"""Packed models: weights stay packed in memory, and each layer dequantizes its weight when it computes.

In simulated mode a layer keeps its dequantized float32 weight beside its codes. Here it has only the codes, scales and
zero points. Its float weight exists only while the layer computes. The arithmetic is the same, so the outputs have the
same bits. Every forward pass takes time for the unpacking.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.models.roles import replace
from qdit.quant.sites import QuantizedConv, QuantizedLinear, stored_weight
from qdit.quant.weight import QuantizedWeight
from qdit.quant.weight_kinds import StoredWeight

M = TypeVar("M", bound=nn.Module)


class PackedLinear(QuantizedLinear):
    """A quantized linear that keeps only packed codes, no float weight; (…, in) → (…, out)."""

    def __init__(self, module: QuantizedLinear) -> None:
        nn.Module.__init__(self)
        self.weight_bits, self.shape, self.gelu, self.dense = module.weight_bits, module.shape, module.gelu, None
        self.stored_form, self.stored_facts = module.stored_form, module.stored_facts
        self.stored_names = module.stored_names
        for name in (*module.stored_names, "bias"):
            self.register_buffer(name, getattr(module, name))
        self.activation, self.transform, self.low_rank = module.activation, module.transform, module.low_rank

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Dequantize the weight (out, in), float32, at every call."""
        if self.stored_form is QuantizedWeight:  # unpacked on its own device, and without checks
            codes = unpacked(self.codes, self.weight_bits, self.shape[1])
            return QuantizedWeight(codes, self.scale, self.zero_point, self.weight_bits).dequantize()
        weight = stored_weight(self)
        assert isinstance(weight, StoredWeight)
        return weight.dequantize()


class PackedConv(PackedLinear, QuantizedConv):
    """A quantized convolution whose patches do not overlap. It keeps only packed codes, as `PackedLinear` does."""

    def __init__(self, module: QuantizedConv) -> None:
        PackedLinear.__init__(self, module)
        self.kernel = module.kernel

    forward = QuantizedConv.forward
    spec = QuantizedConv.spec


class HalfLinear(nn.Linear):
    """A linear that is not quantized. It keeps its weight in float16, which loses nothing, and computes in float32."""

    def __init__(self, module: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = module.in_features, module.out_features
        self.weight = nn.Parameter(module.weight.detach().half(), requires_grad=False)
        self.bias = module.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias)


def keep_packed(model: M) -> M:
    """Keep every quantized weight of a model packed, in place; float weights become float16 if no value changes.

    The outputs keep their bits. The model can be saved and moved, but not trained. `prepare_inference` leaves such a
    model unchanged.
    """
    for name, module in list(model.named_modules()):
        if (
            isinstance(module, QuantizedLinear)
            and module.stored_form is not None
            and not isinstance(module, PackedLinear)
        ):
            packed = PackedConv(module) if isinstance(module, QuantizedConv) else PackedLinear(module)
            replace(model, name, packed.train(module.training))
        elif type(module) is nn.Linear and torch.equal(module.weight.half().float(), module.weight):
            replace(model, name, HalfLinear(module).train(module.training))
    return model


def resident_bytes(model: nn.Module) -> int:
    """Count the bytes of all parameters and buffers of a model in memory. Shared storage counts once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in [*model.parameters(), *model.buffers()]
    }
    return sum(storages.values())


def unpacked(packed: Tensor, bits: int, width: int) -> Tensor:
    """Unpack codes (rows, width) int16 from bytes (rows, ⌈width · bits / 8⌉), on their device. Nothing is checked."""
    if bits == 8:
        return packed.to(torch.int16)
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        codes = packed[:, :, None].bitwise_right_shift(shifts).bitwise_and_(2**bits - 1)
        return codes.flatten(1)[:, :width].to(torch.int16)
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    string = packed[:, :, None].bitwise_right_shift(shifts).bitwise_and_(1).flatten(1)[:, : width * bits]
    powers = (2 ** torch.arange(bits, device=packed.device)).to(torch.int16)
    return (string.unflatten(1, (width, bits)).to(torch.int16) * powers).sum(dim=2, dtype=torch.int16)
