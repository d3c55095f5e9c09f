"""Rectified flow with Open-Sora's timestep transform: Euler steps along a velocity, guided by text.

The model predicts v = data − noise at a timestep on the 0…1000 scale, where 1000 is pure noise. The sampler is equal to
diffusers' FlowMatchEulerDiscreteScheduler with `shift` and explicit sigmas 1 − i/N.
Tables are float64, clips float32. Like the other samplers it is a generator over the trajectory, so that calibration
can use it.
"""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from qdit.core.failure import method_code
from qdit.models.stdit3 import STDiT3
from qdit.sampling.flow_protocol import TRAINING_STEPS, FlowProtocol
from qdit.sampling.precision import in_dtype
from qdit.sampling.samplers import Correction

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, T, H, W), timestep (N,)) → velocity (N, C, T, H, W)."""


def guided_velocity(model: STDiT3, text: Tensor, mask: Tensor, protocol: FlowProtocol) -> Velocity:
    """Function (x, timestep) → predicted velocity for clips of the given texts, after guidance if the protocol has it.

    `text` is (N, L, text_width), `mask` (N, L). The guided velocity is v = v_null + cfg_scale (v_text − v_null). The
    branch without text has the prompt's own mask, as in Open-Sora's program. The two branches run one after the other,
    because half as many rows fit better into a CPU's cache. The output is float32. A model whose weights are in half
    precision gets inputs in half precision. If only the protocol has half precision, inputs stay float32.
    """
    channels, network = model.config.in_channels, in_dtype(model, protocol.dtype)
    dtype = model.x_embedder.proj.weight.dtype if protocol.dtype == "float32" else torch.float32
    null = model.null_text(*text.shape[:2])
    sizes = (float(protocol.fps), float(protocol.height), float(protocol.width))

    def branch(x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        output: Tensor = network(x.to(dtype), timestep, tokens, mask, *sizes)
        return output[:, :channels].float()

    def guided(x: Tensor, timestep: Tensor) -> Tensor:
        toward, away = branch(x, timestep, text), branch(x, timestep, null)
        return away + protocol.cfg_scale * (toward - away)

    return guided if protocol.guided else lambda x, timestep: branch(x, timestep, text)


def flow_step(x: Tensor, velocity: Tensor, now: float, after: float) -> Tensor:
    """One Euler step along the velocity from timestep t to t': x + v (t − t') / 1000."""
    return x + velocity * ((now - after) / TRAINING_STEPS)


def flow_trajectory(
    velocity: Velocity, x: Tensor, timesteps: np.ndarray, *, correction: Correction | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, x_t) from the noisy end down to step 0, then (−1, data). x (N, C, T, H, W) is the start noise.

    A correction is applied to the velocity. Its variance is not used, because no noise is added.
    """
    for step in reversed(range(len(timesteps))):
        yield step, x
        now, after = float(timesteps[step]), float(timesteps[step - 1]) if step else 0.0
        predicted = velocity(x, torch.full((len(x),), now, device=x.device))
        if correction is not None:
            with method_code():
                predicted = correction.apply(predicted, step)
        x = flow_step(x, predicted, now, after)
    yield -1, x


def sample_flow(
    velocity: Velocity, x: Tensor, timesteps: np.ndarray, *, correction: Correction | None = None
) -> Tensor:
    """Sample clips (N, C, T, H, W): the data at the end of the trajectory."""
    _, data = deque(flow_trajectory(velocity, x, timesteps, correction=correction), maxlen=1)[0]
    return data
