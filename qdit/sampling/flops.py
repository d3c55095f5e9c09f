"""Number of floating-point operations needed to sample one clip."""

from qdit.models.config import STDiT3Config
from qdit.models.stdit3_flops import forward_flops
from qdit.sampling.flow_protocol import FlowProtocol, clip_size


def clip_flops(config: STDiT3Config, protocol: FlowProtocol) -> int:
    """Number of floating-point operations to sample one clip (all steps), with a text of the largest length."""
    forward = forward_flops(config, clip_size(config, protocol), config.text_tokens)
    return protocol.steps * (2 if protocol.guided else 1) * forward
