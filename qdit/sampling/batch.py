"""Sampling of one batch of images or clips by their indices. All methods see the same noise and conditions."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qdit.core.errors import Diverged
from qdit.kernels import dense
from qdit.models.dit import DiT
from qdit.models.network import Network
from qdit.models.stdit3 import STDiT3
from qdit.quant.activation import Activation, DynamicActivation, StaticActivation
from qdit.quant.low_rank import LowRank
from qdit.quant.sites import QuantizedOperand
from qdit.quant.temporal import TimestepStaticActivation
from qdit.quant.transforms import Transform
from qdit.sampling.families import family_of
from qdit.sampling.family import Arrays, Conditions, Decoding
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.graphs import GraphedStep
from qdit.sampling.images import Labels
from qdit.sampling.noise import initial_noise, step_noise
from qdit.sampling.precision import device_of
from qdit.sampling.protocol import Protocol, Sampled
from qdit.sampling.samplers import Correction


def sample_batch(
    model: Network,
    protocol: Sampled,
    conditions: tuple[Tensor, ...],
    samples: Sequence[int],
    *,
    correction: Correction | None = None,
    graphed: bool = False,
) -> Tensor:
    """Sample the images or clips with these indices as one batch: latents or pixels (N, …), float32, on the CPU.

    `conditions` are tensors with N rows, one row for each sample: labels, or texts and masks. With `graphed` a GPU
    replays the denoising step as one CUDA graph, with the same bits (`qdit.sampling.graphs`).
    """
    family, device = family_of(model.config), device_of(model)
    shape = family.shape(model.config, family.require(protocol))
    noise = initial_noise(shape, protocol.seed, samples).to(device)

    def noise_of(step: int) -> Tensor:
        return step_noise(shape, protocol.seed, samples, step).to(device)

    with torch.inference_mode():
        predict = family.predictor(model, tuple(column.to(device) for column in conditions), protocol)
        predict = GraphedStep(predict) if graphed else predict
        drawn = noise_of if family.require(protocol).ancestral else None
        steps = family.trajectory(predict, noise, protocol, step_noise=drawn, correction=correction)
        _, data = deque(steps, maxlen=1)[0]
    return data.float().cpu()


def sample_images(
    model: DiT, protocol: Protocol, images: range, *, correction: Correction | None = None
) -> tuple[Tensor, Tensor]:
    """Sample the images with these indices as one batch: x_0 (N, C, L, L) float32 and their labels (N,)."""
    conditions = Labels(model.config.num_classes, protocol.seed, protocol.labels).tensors(images)
    return sample_batch(model, protocol, conditions, images, correction=correction), conditions[0]


def sample_clips(
    model: STDiT3,
    protocol: FlowProtocol,
    text: Tensor,
    mask: Tensor,
    clips: Sequence[int],
    *,
    correction: Correction | None = None,
) -> Tensor:
    """Sample the clips with these indices as one batch: latents or pixels (N, C, T, H, W), float32.

    There is one text for each clip.
    """
    return sample_batch(model, protocol, (text, mask), clips, correction=correction)


MOST_TOKENS = 1024
"""Most tokens of several chunks in one batch. With more, activations of a small DiT leave the second-level cache."""


def chunks_together(model: object, chunk: int) -> int:
    """Number of neighbouring chunks that may be one batch: more than 1 only if that changes no bit of a sample.

    This is so for a DiT on the CPU in float32 whose quantizers compute each sample alone, with oneDNN's products. A
    dynamic range of the whole batch, an operand of attention, an input transform, a branch, and kinds of a method's own
    file are not known to do that.
    """
    if not isinstance(model, DiT) or device_of(model).type != "cpu" or dense.backend() != "onednn":
        return 1
    for module in model.modules():
        if isinstance(module, QuantizedOperand | Transform | LowRank):
            return 1
        if isinstance(module, Activation) and not computes_samples_alone(module):
            return 1
    return max(1, MOST_TOKENS // (chunk * model.config.tokens))


def computes_samples_alone(activation: Activation) -> bool:
    """Whether the quantizer's output for a sample is known not to depend on the other samples of a batch."""
    if type(activation) is DynamicActivation:
        return activation.sharing != "tensor"
    return type(activation) in (StaticActivation, TimestepStaticActivation)


@dataclass(frozen=True)
class Batches:
    """A loaded model with everything that it needs to sample batches of a run."""

    model: Network
    protocol: Sampled
    conditions: Conditions
    decoder: Decoding
    correction: Correction | None = None
    graphed: bool = False

    def latents(self, samples: range) -> Tensor:
        """Sample these indices as one batch.

        The result is the output of the sampler, not decoded: latents or pixels.
        """
        conditions = self.conditions.tensors(samples)
        return sample_batch(
            self.model, self.protocol, conditions, samples, correction=self.correction, graphed=self.graphed
        )

    def columns(self, samples: range, count: int) -> Arrays:
        """Arrays of a chunk file: pixels and conditions of the first `count` samples of the batch `samples`.

        Raises Diverged if a sample holds NaN or infinity.
        """
        family = family_of(self.model.config)
        latents = self.latents(samples)[:count]
        if not torch.isfinite(latents).all():
            raise Diverged(f"sampled {family.unit} hold NaN or infinity; the quantized model diverges at these bits")
        named = self.conditions.columns(range(samples.start, samples.start + count))
        return {family.pixels: self.decoder(latents).numpy(), **named}
