"""Options of the steps that run networks: device, precision and VAE; and the GPU that a command holds while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from qdit.core.gpu_lease import leased
from qdit.core.repository import shipped_path


def shipped(value: Path | None) -> Path | None:
    """Callback of options and arguments that take weights or prompts: the shipped file, if none is here."""
    return None if value is None else shipped_path(value)


Device = Annotated[
    str,
    typer.Option(
        envvar="QDIT_DEVICE",
        help="cpu, cuda (a GPU that no other command holds) or cuda:N; changes nothing of what is computed.",
    ),
]
Dtype = Annotated[str, typer.Option(help="Precision of the network's matrix products and the VAE: float32, float16.")]
Vae = Annotated[
    Path | None,
    typer.Option(callback=shipped, help="Weights of the VAE that decodes latents, its config.json beside them."),
]


@contextmanager
def on_device(device: str) -> Iterator[str]:
    """Inside this context the command has a device: `cpu`, or `cuda:N` that it shares with no other command."""

    def count() -> int:
        import torch

        return torch.cuda.device_count()

    with leased(device, count=count) as name:
        yield name
