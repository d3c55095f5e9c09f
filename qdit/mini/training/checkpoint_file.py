"""Reading of training checkpoints and snapshots: the moving average of the weights, and where the training stands."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

from qdit.core.errors import CheckpointError, QditError
from qdit.core.files import load_tensors, one_line

AVERAGE = "average."
"""Prefix of the moving average in a training checkpoint."""
VIDEO_MARK = "world"
"""Key that only checkpoints of video models have: what their clips show."""

Network = TypeVar("Network", bound=nn.Module)


def read_average(path: Path, *, of_video: bool, command: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the moving average and the metadata of a checkpoint. `command` is the command that writes such a file.

    The metadata have `model` (an object) and `iteration` (a whole number). CheckpointError for any other file, also for
    a checkpoint of the other kind of model.
    """
    tensors, metadata = load_tensors(path)
    average = {name.removeprefix(AVERAGE): tensor for name, tensor in tensors.items() if name.startswith(AVERAGE)}
    if not average or not isinstance(metadata, dict) or (VIDEO_MARK in metadata) != of_video:
        refuse(path, of_video=of_video, command=command)
    if not isinstance(metadata.get("model"), dict) or type(metadata.get("iteration")) is not int:
        refuse(path, of_video=of_video, command=command, why="its metadata lack model or iteration")
    return average, metadata


def refuse(path: Path, *, of_video: bool, command: str, why: str = "") -> NoReturn:
    """Raise CheckpointError: the file is no training checkpoint of this kind of model, perhaps with the reason."""
    kind = "a video model" if of_video else "a DiT"
    reason = f" ({why})" if why else ""
    raise CheckpointError(f"{path}: not a training checkpoint of {kind}{reason}; give the one that {command} wrote")


def filled(
    make: Callable[[], Network], average: Mapping[str, Tensor], path: Path, *, of_video: bool, command: str
) -> Network:
    """Make a network and give it the averaged weights of a checkpoint. `make` returns the network, without arguments.

    CheckpointError if the configuration of the checkpoint makes no network, or if a weight is missing, is not expected
    or has another shape. A network with a missing weight would be random in part. Checkpoints of a DiT have no buffers,
    because every DiT computes its own.
    """
    try:
        model = make()
        needed = model.state_dict().keys() if of_video else dict(model.named_parameters()).keys()
        if missing := sorted(needed - average.keys()):
            raise ValueError(f"{len(missing)} weights are missing, first {missing[0]}")
        model.load_state_dict({**model.state_dict(), **average})
    except (QditError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as problem:
        refuse(path, of_video=of_video, command=command, why=one_line(problem))
    return model.eval()


def training_of(metadata: Mapping[str, Any], path: Path, *names: str) -> dict[str, Any]:
    """Return these entries of a checkpoint's metadata, for the file that is shipped; CheckpointError if one lacks."""
    if missing := [name for name in names if name not in metadata]:
        raise CheckpointError(f"{path}: does not say {', '.join(missing)} of its training; give a file of qdit train")
    return {name: metadata[name] for name in names}
