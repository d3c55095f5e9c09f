"""State of a video training run: weights, moving average, optimizer moments and iteration.

Muon (an optimizer that makes the momentum orthogonal; Jordan et al. 2024) trains the matrices of the blocks, AdamW all
other parameters.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors, save_tensors
from qdit.mini.training.checkpoint_file import AVERAGE

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is the weight of a linear in a block. Muon trains these."""
    return "_blocks." in name and name.endswith(".weight") and parameter.ndim == 2


class TrainingState:
    """A model in training. It is saved to one file, from which the training continues with the same bits.

    `identity` is JSON with everything in which checkpoint and training must agree. A difference raises CheckpointError.
    The model has the weights of iteration `first` of an earlier training (0: new weights). The optimizers begin there
    without moments.
    """

    def __init__(self, model: nn.Module, path: Path, identity: dict[str, Any], *, ema: float, first: int = 0) -> None:
        self.model, self.path, self.identity, self.ema, self.first = model, path, identity, ema, first
        self.parameters = dict(model.named_parameters())
        self.names: dict[Tensor, str] = {p: name for name, p in self.parameters.items()}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        matrices = {name: p for name, p in self.parameters.items() if is_block_matrix(name, p)}
        others = [p for name, p in self.parameters.items() if name not in matrices]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices.values(), weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, weight_decay=0.0, foreach=True),
        )
        self.iteration = first
        if path.exists():
            self.resume()

    def update(self, loss: Tensor, learning_rates: tuple[float, float]) -> None:
        """Take one step of Muon and AdamW, update the moving average of the weights, and count the iteration.

        At the start the average forgets old weights faster.
        """
        self.model.zero_grad()
        loss.backward()
        for optimizer, rate in zip(self.optimizers, learning_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        taken = self.iteration - self.first
        weight = 1 - min(self.ema, (1 + taken) / (10 + taken))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], weight)
        self.iteration += 1

    def save(self) -> None:
        """Write a checkpoint: everything that a continued training needs, and the model's buffers."""
        tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in self.parameters.items()}
        tensors |= {f"{AVERAGE}{name}": mean for name, mean in self.average.items()}
        tensors |= {f"{AVERAGE}{name}": b for name, b in self.model.state_dict().items() if name not in self.parameters}
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                name = self.names[parameter]
                tensors |= {f"{moment}.{name}": state[moment] for moment in MOMENTS if moment in state}
        save_tensors(self.path, tensors, {**self.identity, "iteration": self.iteration})

    def resume(self) -> None:
        """Continue from the checkpoint. CheckpointError if it belongs to another configuration."""
        tensors, metadata = load_tensors(self.path)
        if not isinstance(metadata, dict) or {key: metadata.get(key) for key in self.identity} != self.identity:
            raise CheckpointError(
                f"{self.path}: was trained with another configuration; delete the file or restore the configuration"
            )
        self.iteration = metadata["iteration"]
        muon, adam = self.optimizers
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"model.{name}"])
            self.average[name].copy_(tensors[f"{AVERAGE}{name}"])
            keys = {moment: f"{moment}.{name}" for moment in MOMENTS}
            state = {moment: tensors[key].to(parameter.device) for moment, key in keys.items() if key in tensors}
            if is_block_matrix(name, parameter):
                muon.state[parameter] = state
            else:
                adam.state[parameter] = {"step": torch.tensor(float(self.iteration - self.first)), **state}
