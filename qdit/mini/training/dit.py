"""Training of a small DiT with the hybrid objective of improved DDPM: noise MSE + 0.001 · variational bound.

A stopped training continues with the same bits. Every random number of iteration i depends on (seed, i). The checkpoint
holds the weights, their moving average and Adam's moments.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from qdit.core.devices import torch_device
from qdit.core.errors import CheckpointError, ConfigError, did_you_mean
from qdit.core.files import load_tensors, save_tensors
from qdit.core.seeds import Purpose, torch_generator
from qdit.mini.data import fashion_mnist
from qdit.mini.data.digits import load, load_upsampled
from qdit.mini.data.labelled import LabelledImages
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.models.roles import linear_of, select
from qdit.sampling.schedule import training_schedule


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of the training of a DiT. The learning rate rises linearly at the start (warm-up).

    Then it falls to zero along a cosine over `iterations`, or stays `constant`, as in DiT's training.

    `bfloat16` computes forward and backward passes in bfloat16, with float32 weights. This is twice as fast on CPUs
    with such instructions.
    """

    iterations: int = 16_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: int = 500
    ema: float = 0.9995
    label_dropout: float = 0.1
    bound_weight: float = 1e-3
    stop_at: int = 8_000
    checkpoint_every: int = 500
    bfloat16: bool = True
    seed: int = 0
    decay: Literal["cosine", "constant"] = "cosine"
    snapshot_every: int | None = None
    """Keep the moving average at 1, 2, 4, 8, … iterations and at every multiple of this number; None keeps none."""


def initialize(model: DiT, generator: torch.Generator) -> None:
    """Initialize as DiT: Xavier for linears, N(0, 0.02) for embedders, zeros for adaLN and the output layer."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.y_embedder.embedding_table.weight, std=0.02, generator=generator)
    for index in (0, 2):
        nn.init.normal_(linear_of(model, f"t_embedder.mlp.{index}").weight, std=0.02, generator=generator)
    for site in select(model.sites(), roles=("adaln", "final_adaln", "final")):
        nn.init.zeros_(linear_of(model, site).weight)


class HybridLoss:
    """Loss of improved DDPM (Nichol & Dhariwal): MSE of the noise + weight · variational bound.

    The gradient of the bound reaches only the variance channels.
    """

    def __init__(self, bound_weight: float, device: torch.device) -> None:
        schedule = training_schedule()
        bar = schedule.alphas_cumprod
        of_x0, of_x = schedule.posterior_mean_coefficients

        def table(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).float().to(device)

        self.bound_weight = bound_weight
        self.signal, self.noise = table(np.sqrt(bar)), table(np.sqrt(1 - bar))
        self.of_x0, self.of_x = table(of_x0), table(of_x)
        self.log_variance = table(schedule.posterior_log_variance_clipped)
        self.log_beta = table(np.log(schedule.betas))

    def __call__(
        self,
        model: Callable[[Tensor, Tensor, Tensor], Tensor],
        x0: Tensor,
        timestep: Tensor,
        label: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Mean loss of a batch: x0 and noise (N, C, L, L), timestep and label (N,)."""

        def at(table: Tensor) -> Tensor:
            return table[timestep].view(-1, 1, 1, 1)

        noisy = at(self.signal) * x0 + at(self.noise) * noise
        predicted, variance = model(noisy, timestep, label).chunk(2, dim=1)
        error = F.mse_loss(predicted, noise)
        fraction = (variance + 1) / 2
        log_variance = fraction * at(self.log_beta) + (1 - fraction) * at(self.log_variance)
        predicted_x0 = (noisy - at(self.noise) * predicted.detach()) / at(self.signal)
        gap = at(self.of_x0) * (x0 - predicted_x0)
        posterior = at(self.log_variance)
        divergence = 0.5 * (
            log_variance - posterior - 1 + torch.exp(posterior - log_variance) + gap**2 * torch.exp(-log_variance)
        )
        # At t = 0 the bound is the decoder's likelihood; digits have 17 grey levels, so a Gaussian density does.
        likelihood = 0.5 * (math.log(2 * math.pi) + log_variance + gap**2 * torch.exp(-log_variance))
        bound = torch.where(at(timestep_is_zero(self.log_beta)) > 0, likelihood, divergence)
        return error + self.bound_weight * bound.mean() / math.log(2)


def timestep_is_zero(like: Tensor) -> Tensor:
    """Table over timesteps that is 1 at t = 0 and 0 elsewhere, in the dtype and on the device of `like`."""
    table = torch.zeros_like(like)
    table[0] = 1
    return table


def learning_rate_factor(config: TrainingConfig, iteration: int) -> float:
    """Factor of the learning rate at an iteration: linear warm-up times the decay."""
    warm = min(1.0, (iteration + 1) / config.warmup)
    if config.decay == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))


class Trainer:
    """State of one training run. It is saved to `folder/checkpoint.safetensors`, from which the training continues."""

    def __init__(self, model_config: DiTConfig, config: TrainingConfig, folder: Path, device: str = "cpu") -> None:
        self.config, self.device = config, torch_device(device)
        self.path = folder / "checkpoint.safetensors"
        self.identity = {"model": model_config.to_dict(), "training": asdict(config)}
        self.model = DiT(model_config)
        initialize(self.model, torch_generator(config.seed, Purpose.TRAINING))
        self.model.to(self.device).train()
        self.parameters = dict(self.model.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )
        self.loss = HybridLoss(config.bound_weight, self.device)
        self.iteration = 0
        if self.path.exists():
            self.resume()

    def batch(self, data: LabelledImages, iteration: int) -> tuple[Tensor, ...]:
        """Images (x0), timesteps, labels (some dropped to the null class) and noise of one iteration."""
        draw = torch_generator(self.config.seed, Purpose.TRAINING, iteration + 1)
        size, null = self.config.batch_size, self.model.config.null_class
        rows = torch.randint(len(data), (size,), generator=draw)
        timestep = torch.randint(1000, (size,), generator=draw)
        noise = torch.randn((size, *data.images.shape[1:]), generator=draw)
        dropped = torch.rand(size, generator=draw) < self.config.label_dropout
        label = data.labels[rows].masked_fill(dropped, null)
        return tuple(tensor.to(self.device) for tensor in (data.images[rows], timestep, label, noise))

    def run(self, data: LabelledImages, until: int | None = None) -> None:
        """Train until iteration `until` (default: the end). Checkpoints are saved during the training."""
        goal = self.config.stop_at if until is None else until
        progress = tqdm(total=goal, initial=self.iteration, unit="it", desc="training", mininterval=5)
        smoothed = math.nan
        while self.iteration < goal:
            loss = self.step(data)
            self.iteration += 1
            smoothed = loss if math.isnan(smoothed) else 0.99 * smoothed + 0.01 * loss
            progress.update()
            if self.iteration % 100 == 0:
                progress.set_postfix(loss=f"{smoothed:.4f}", refresh=False)
            self.keep_snapshot()
            if self.iteration % self.config.checkpoint_every == 0 or self.iteration == goal:
                self.save()
        progress.close()

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Output of the model in the precision of the training. Gradients reach the float32 parameters."""
        dtype = torch.bfloat16 if self.config.bfloat16 else torch.float32
        state = {name: p.to(dtype) for name, p in self.parameters.items()}
        state["pos_embed"] = self.model.pos_embed.to(dtype)
        return functional_call(self.model, state, (x.to(dtype), timestep, label)).float()

    def step(self, data: LabelledImages) -> float:
        """Take one optimizer step and return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * learning_rate_factor(self.config, self.iteration)
        # The mathematical form of attention: the fused one's backward is slow for so few tokens on a CPU.
        with sdpa_kernel(SDPBackend.MATH):
            loss = self.loss(self.forward, *self.batch(data, self.iteration))
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        weight = 1 - min(self.config.ema, (1 + self.iteration) / (10 + self.iteration))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], weight)
        return loss.item()

    def save(self) -> None:
        """Write a checkpoint with everything that a continued training needs."""
        tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in self.parameters.items()}
        tensors |= {f"average.{name}": mean for name, mean in self.average.items()}
        for name, parameter in self.parameters.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
        save_tensors(self.path, tensors, {**self.identity, "iteration": self.iteration})

    def keep_snapshot(self) -> None:
        """Write the moving average of the weights to `snapshots/`, if the configuration names this iteration."""
        every, iteration = self.config.snapshot_every, self.iteration
        if every is not None and (iteration & (iteration - 1) == 0 or iteration % every == 0):
            average = {f"average.{name}": mean for name, mean in self.average.items()}
            path = self.path.parent / "snapshots" / f"{iteration:06d}.safetensors"
            save_tensors(path, average, {**self.identity, "iteration": iteration})

    def resume(self) -> None:
        """Continue from the checkpoint. CheckpointError if it belongs to another configuration."""
        tensors, metadata = load_tensors(self.path)
        if not isinstance(metadata, dict) or {key: metadata.get(key) for key in self.identity} != self.identity:
            raise CheckpointError(
                f"{self.path}: was trained with another configuration; delete the file or restore the configuration"
            )
        self.iteration = metadata["iteration"]
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"model.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.iteration)),
                "exp_avg": tensors[f"exp_avg.{name}"].to(self.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(self.device),
            }


DIGITS_DIT = DiTConfig(input_size=8, patch_size=2, in_channels=1, hidden_size=144, depth=7, num_heads=6, num_classes=10)
"""DiT-XL/2 at an eighth of the width and a quarter of the depth, on 8×8 digits: 16 tokens."""

DIGITS_16_DIT = replace(DIGITS_DIT, input_size=16, patch_size=4)
"""The same on digits upsampled to 16×16, in the place of the paper's 512×512 images: 16 tokens of 4×4 pixels."""

FASHION_DIT = replace(DIGITS_DIT, input_size=28, patch_size=4)
"""The same on the photographs of Fashion-MNIST: 49 tokens of 4×4 pixels."""

FASHION_TRAINING = TrainingConfig(
    learning_rate=8e-4, decay="constant", stop_at=16_000, snapshot_every=2_000, checkpoint_every=250
)
"""DiT's training: constant learning rate, no weight decay. DiT-XL/2 has 1e-4 at width 1152, so 8e-4 at width 144."""

VARIANTS = 16
"""Upsampled variants of each training digit that the second model learns from."""


@dataclass(frozen=True)
class MiniModel:
    """A small model that `qdit train dit` can train: configuration, images, and the iteration at which it stops.

    If `until` is None, it stops at the last iteration of the hyperparameters.
    """

    config: DiTConfig
    data: Callable[[], LabelledImages]
    until: int | None = None
    training: TrainingConfig = TrainingConfig()


MINI_MODELS = {
    "dit-digits": MiniModel(DIGITS_DIT, lambda: load("train"), training=TrainingConfig(snapshot_every=1_000)),
    "dit-digits-16": MiniModel(DIGITS_16_DIT, lambda: load_upsampled("train", copies=VARIANTS), until=9_000),
    "dit-fashion": MiniModel(FASHION_DIT, lambda: fashion_mnist.load("train"), training=FASHION_TRAINING),
}


def train_mini_dit(name: str, folder: Path, *, config: TrainingConfig | None = None, device: str = "cpu") -> Path:
    """Train the model `name` of `MINI_MODELS`, or continue its training from the checkpoint in `folder`.

    Return the path of the checkpoint.
    """
    if name not in MINI_MODELS:
        raise ConfigError(
            f"unknown model {name!r}; allowed are {', '.join(MINI_MODELS)}{did_you_mean(name, MINI_MODELS)}"
        )
    model = MINI_MODELS[name]
    trainer = Trainer(model.config, config or model.training, folder, device)
    trainer.run(model.data(), until=model.until if config is None else None)
    return trainer.path
