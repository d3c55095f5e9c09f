"""Training of a small STDiT3 on moving digits by rectified flow: it learns the velocity data − noise on straight paths.

A stopped training continues with the same bits. Every random number of iteration i depends on (seed, i), and each clip
on its number. The checkpoint holds the weights, their moving average and the optimizers' moments.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from qdit.core.devices import torch_device
from qdit.core.errors import CheckpointError, ConfigError, did_you_mean
from qdit.core.files import load_tensors, sha256_file
from qdit.core.seeds import Purpose, torch_generator
from qdit.mini.data.moving_digits import FPS, SIZE, TWO_OBJECTS, make_clips
from qdit.mini.data.moving_digits_prompts import CHANNELS, MAX_TOKENS, PLACES, encode
from qdit.mini.training.video_shipping import load_video_model
from qdit.mini.training.video_state import TrainingState
from qdit.models.config import STDiT3Config
from qdit.models.roles import linear_of, select
from qdit.models.stdit3 import STDiT3


@dataclass(frozen=True)
class VideoTrainingConfig:
    """Hyperparameters of the training of an STDiT3.

    Learning rates rise linearly, stay, and fall as √(hold / i) from i = `hold`. No rate depends on the end of the
    training (`iterations`), so it can run as long as necessary. `learning_rate` is that of Muon (matrices of the
    blocks), `other_learning_rate` that of AdamW (all other parameters). Times are logistic-normal with mean 0; a tenth
    of them are uniform. Then `shift` moves them towards noise (t' = shift · t / (1 + (shift − 1) t)), because the
    digits take their form at these times. Open-Sora's formula would give shift 0 for 8 frames. `bfloat16` computes
    forward and backward passes in bfloat16; the weights stay float32. `two_objects` is the fraction of clips with two
    digits. `places`: see `moving_digits_prompts.encode`.
    """

    iterations: int = 16_000
    batch_size: int = 32
    learning_rate: float = 1e-2
    other_learning_rate: float = 3e-3
    warmup: int = 100
    hold: int = 2_000
    ema: float = 0.999
    text_dropout: float = 0.1
    uniform_times: float = 0.1
    shift: float = 2.0
    checkpoint_every: int = 250
    bfloat16: bool = True
    seed: int = 0
    two_objects: float = TWO_OBJECTS
    places: bool = PLACES


MOVING_DIGITS_STDIT3 = STDiT3Config(
    in_channels=3,
    patch_size=4,
    hidden_size=144,
    depth=2,
    num_heads=6,
    text_width=CHANNELS,
    text_tokens=MAX_TOKENS,
    base_size=SIZE,
    pixels_per_cell=1,
    fps=FPS,
    frame_positions=True,
)
"""STDiT3-XL/2 at an eighth of the width and a fourteenth of the depth, on 8 frames of 16×16 pixels: 128 tokens."""


def initialize(model: STDiT3, generator: torch.Generator) -> None:
    """Initialize as STDiT3: Xavier for linears, N(0, 0.02) for embedders.

    At the start temporal blocks and the output layer give 0.
    """
    width = model.config.hidden_size
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if hasattr(module, "scale_shift_table"):
            nn.init.normal_(module.get_parameter("scale_shift_table"), std=width**-0.5, generator=generator)
        if name.startswith("temporal_blocks.") and name.endswith((".proj", ".fc2")):
            nn.init.zeros_(module.get_parameter("weight"))
    for site in select(model.sites(), roles=("time_embed", "fps_embed", "t_block", "caption_proj")):
        nn.init.normal_(linear_of(model, site).weight, std=0.02, generator=generator)
    nn.init.zeros_(linear_of(model, "final_layer.linear").weight)
    nn.init.normal_(model.y_embedder.y_embedding, generator=generator)


def shifted(times: Tensor, shift: float) -> Tensor:
    """Move times in [0, 1] towards 1, which is noise: shift · t / (1 + (shift − 1) t)."""
    return shift * times / (1 + (shift - 1) * times)


def to_model(frames: Tensor) -> Tensor:
    """Convert uint8 frames to float32 in [−1, 1], the input of the model."""
    return frames.float() / 127.5 - 1


def learning_rate_factor(config: VideoTrainingConfig, iteration: int, first: int = 0) -> float:
    """Factor of the learning rate at an iteration.

    It rises linearly to 1 from iteration `first` on, stays, then falls as √(hold / iteration).
    """
    return min(1.0, (iteration - first + 1) / config.warmup, math.sqrt(config.hold / max(iteration, 1)))


@dataclass(frozen=True)
class Start:
    """Weights of an earlier training that a training continues: parameters, iteration, sha256 of the file."""

    weights: Mapping[str, Tensor]
    iteration: int
    sha256: str


def read_start(path: Path, config: STDiT3Config) -> Start:
    """Read shipped weights or a training checkpoint; CheckpointError for a file of another model."""
    model = load_video_model(path)
    if model.config != config:
        raise CheckpointError(f"{path}: holds another network than the one to train; give weights of this model")
    metadata = load_tensors(path)[1]
    iteration = metadata.get("iteration") if isinstance(metadata, dict) else None
    if type(iteration) is not int:
        raise CheckpointError(
            f"{path}: does not say the iteration of its training; give weights of qdit video ship or a checkpoint of"
            " qdit train video"
        )
    return Start(dict(model.named_parameters()), iteration, sha256_file(path))


WHEN = ("iterations", "checkpoint_every")
"""Fields of the configuration that change no weight: a checkpoint may go on with others."""


@dataclass(frozen=True)
class Batch:
    """One training batch: noisy clips and target velocities (N, 3, 8, 16, 16), times (N,) in [0, 1], text and mask."""

    noisy: Tensor
    velocity: Tensor
    times: Tensor
    text: Tensor
    mask: Tensor


class VideoTrainer:
    """One training run of a video model. Its files are in `folder`, and it computes on `device`.

    `start` has the weights with which it begins; without it, weights are new.
    """

    def __init__(
        self,
        model: STDiT3Config,
        config: VideoTrainingConfig,
        folder: Path,
        device: str = "cpu",
        *,
        start: Start | None = None,
    ) -> None:
        self.config, self.device = config, torch_device(device)
        self.model = STDiT3(model)
        initialize(self.model, torch_generator(config.seed, Purpose.TRAINING))
        if start is not None:
            self.model.load_state_dict(start.weights, strict=False)
        self.model.to(self.device).train()
        training = {key: value for key, value in asdict(config).items() if key not in WHEN}
        identity: dict[str, Any] = {"model": model.to_dict(), "training": training, "world": "moving-digits"}
        begun = None if start is None else {"iteration": start.iteration, "sha256": start.sha256}
        identity["start"] = begun
        first = 0 if start is None else start.iteration
        self.state = TrainingState(self.model, folder / "checkpoint.safetensors", identity, ema=config.ema, first=first)

    def batch(self, iteration: int) -> Batch:
        """Make the batch of one iteration. No clip occurs twice in the training."""
        config = self.config
        draw = torch_generator(config.seed, Purpose.TRAINING, iteration + 1)
        size = config.batch_size
        rows = range(iteration * size, (iteration + 1) * size)
        clips = make_clips(config.seed, rows, "train", two_objects=config.two_objects)
        data, (text, mask) = to_model(clips.frames), encode(clips.scenarios, places=config.places)
        noise = torch.randn(data.shape, generator=draw)
        normal = torch.randn(size, generator=draw).sigmoid()
        uniform = torch.rand(size, generator=draw)
        is_uniform = torch.rand(size, generator=draw) < config.uniform_times
        times = shifted(torch.where(is_uniform, uniform, normal), config.shift)
        dropped = torch.rand(size, generator=draw) < config.text_dropout
        null = self.model.null_text(size, text.shape[1]).cpu()
        text = torch.where(dropped[:, None, None], null, text)
        at = times.view(-1, 1, 1, 1, 1)
        batch = Batch((1 - at) * data + at * noise, data - noise, times, text, mask)
        return Batch(**{name: tensor.to(self.device) for name, tensor in vars(batch).items()})

    def velocity(self, batch: Batch) -> Tensor:
        """Velocity that the model predicts for a batch, in the training precision.

        Gradients reach the float32 parameters.
        """
        dtype = torch.bfloat16 if self.config.bfloat16 else torch.float32
        weights: Mapping[str, Tensor] = {name: p.to(dtype) for name, p in self.state.parameters.items()}
        inputs = (batch.noisy.to(dtype), 1000 * batch.times, batch.text, batch.mask)
        velocity: Tensor = functional_call(self.model, dict(weights), inputs)
        return velocity[:, : self.model.config.in_channels].float()

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the predicted velocity of one batch."""
        return (self.velocity(batch) - batch.velocity).square().mean()

    def step(self) -> float:
        """Take one optimizer step and return the loss."""
        factor = learning_rate_factor(self.config, self.state.iteration, self.state.first)
        rates = (self.config.learning_rate * factor, self.config.other_learning_rate * factor)
        # The mathematical form of attention: the fused one's backward is slow for so few tokens on a CPU.
        with sdpa_kernel(SDPBackend.MATH):
            loss = self.loss(self.batch(self.state.iteration))
            self.state.update(loss, rates)
        return loss.item()

    def run(self, until: int | None = None) -> None:
        """Train until iteration `until` (default: the end). Checkpoints are saved during the training."""
        goal = self.config.iterations if until is None else min(until, self.config.iterations)
        progress = tqdm(total=goal, initial=self.state.iteration, unit="it", desc="training", mininterval=5)
        smoothed = math.nan
        while self.state.iteration < goal:
            loss = self.step()
            smoothed = loss if math.isnan(smoothed) else 0.99 * smoothed + 0.01 * loss
            progress.update()
            if self.state.iteration % 100 == 0:
                progress.set_postfix(loss=f"{smoothed:.4f}", refresh=False)
            if self.state.iteration % self.config.checkpoint_every == 0 or self.state.iteration == goal:
                self.state.save()
        progress.close()


MINI_VIDEO_MODELS = {"stdit3-moving-digits": MOVING_DIGITS_STDIT3}
"""Small models that `qdit train video` can train."""


def train_mini_video(
    name: str,
    folder: Path,
    *,
    config: VideoTrainingConfig | None = None,
    until: int | None = None,
    device: str = "cpu",
    start: Path | None = None,
) -> Path:
    """Train the model `name` of `MINI_VIDEO_MODELS`, or continue its training from the checkpoint in `folder`.

    A new training begins with the weights of the file `start`, if there is one. Return the path of the checkpoint.
    """
    if name not in MINI_VIDEO_MODELS:
        raise ConfigError(
            f"unknown model {name!r}; allowed are {', '.join(MINI_VIDEO_MODELS)}{did_you_mean(name, MINI_VIDEO_MODELS)}"
        )
    model = MINI_VIDEO_MODELS[name]
    begun = None if start is None else read_start(start, model)
    trainer = VideoTrainer(model, config or VideoTrainingConfig(), folder, device, start=begun)
    trainer.run(until)
    return trainer.state.path
