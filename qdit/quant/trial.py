"""Trial quantization of a linear, to compare candidates: weights rounded to nearest, inputs with dynamic ranges.

SVDQuant and DiTAS compare candidates by the error of the output.
"""

from dataclasses import dataclass

from torch import Tensor

from qdit.core.run import FULL_PRECISION_BITS
from qdit.quant.activation import DynamicActivation, Sharing
from qdit.quant.apply import granularity
from qdit.quant.low_rank import LowRank
from qdit.quant.ranges import zero_minmax
from qdit.quant.weight import QuantizedWeight, quantize_weight


@dataclass(frozen=True)
class Trial:
    """How a linear is quantized for a trial.

    With 16 bits, weight or input is not quantized. `group_size` None means one range per output channel and per token.
    `sharing` says which tokens of an input share a range; unless each token has its own, the first dimension of inputs
    must be the samples.
    """

    weight_bits: int
    activation_bits: int
    group_size: int | None
    sharing: Sharing = "token"

    def rounded(self, weight: Tensor) -> QuantizedWeight:
        """Round a weight (out, in) to nearest. ConfigError if the weight has 16 bits."""
        shared = granularity(self.group_size)
        return quantize_weight(weight, bits=self.weight_bits, granularity=shared, ranges=zero_minmax)

    def quantized_inputs(self, inputs: Tensor) -> Tensor:
        """Quantize and dequantize inputs (…, in)."""
        if self.activation_bits == FULL_PRECISION_BITS:
            return inputs
        return DynamicActivation(bits=self.activation_bits, group_size=self.group_size, sharing=self.sharing)(inputs)

    def output(self, inputs: Tensor, residual: Tensor, branch: LowRank | None = None) -> Tensor:
        """Compute the quantized linear's output (…, out).

        The branch gets the inputs without rounding; `residual`, the weight minus the branch, gets rounded inputs.
        """
        output = self.quantized_inputs(inputs) @ residual.t()
        return output if branch is None else output + branch(inputs)

    def error(self, inputs: Tensor, weight: Tensor, residual: Tensor, branch: LowRank) -> float:
        """Return the squared distance of the output to the exact output (weight and inputs not quantized)."""
        return float((self.output(inputs, residual, branch) - inputs @ weight.t()).square().sum())
