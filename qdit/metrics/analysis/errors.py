"""Errors of quantized models against full precision, step by step and layer by layer.

There are M methods, S steps, N images, D blocks and P measured parts of a block.

    labels       (M,)          the methods; `status` (M,) is "ok" or the reason why a method has no values (NaN)
    noise_error  (M, S, N)     ‖ε_q(x_t) − ε(x_t)‖² / ‖ε(x_t)‖² of each image at the full-precision x_t; ε is taken
                               after guidance and after a method's correction
    drift        (M, S + 1, N) mean squared distance between the trajectories of the method and of full precision
    layer_error  (M, D, P)     ‖y_q − y‖² / ‖y‖² over images and steps (at most `LAYER_STEPS`, evenly spread), for the
                               parts `parts` (P,) of each block

Some methods move factors between layers. Therefore outputs are compared only at points that such factors do not change:
the q and k rows of qkv, attention after its projection, fc1 before GELU, and the MLP after fc2. A block has two
branches, attention and MLP. Each branch gets the full-precision input. So an error belongs to this branch and not to
the blocks before it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from qdit.core.devices import torch_device
from qdit.core.errors import ConfigError, QditError
from qdit.core.files import save_arrays
from qdit.core.metrics_record import Status
from qdit.metrics.analysis.trajectory import Followed, Start, follow, inputs_along, start
from qdit.models.dit import DiT, DiTBlock
from qdit.quant.checkpoint import Checkpoint, load_checkpoint
from qdit.quant.folder import checkpoint_sha256, read_config, read_failure
from qdit.quant.sites import prepare_inference
from qdit.sampling.guidance import denoiser
from qdit.sampling.precision import device_of
from qdit.sampling.protocol import Protocol
from qdit.sampling.samplers import predicted_noise

PARTS = ("q and k", "attention", "fc1", "MLP")
LAYER_STEPS = 10


@dataclass(frozen=True)
class Branches:
    """Outputs of one block: its measured parts (`PARTS`), the tokens after attention (`middle`), and its output."""

    parts: tuple[Tensor, Tensor, Tensor, Tensor]
    middle: Tensor
    output: Tensor


@contextmanager
def kept_output(module: nn.Module) -> Iterator[list[Tensor]]:
    """Context manager: it yields a list that collects the outputs of a module."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def branches(block: DiTBlock, tokens: Tensor, condition: Tensor, middle: Tensor | None = None) -> Branches:
    """Compute the attention branch and the MLP branch of a block.

    With `middle`, the MLP branch starts from these tokens, not from the tokens after attention.
    """
    shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(condition).chunk(6, dim=1)
    with kept_output(block.attn.qkv) as qkv, kept_output(block.mlp.fc1) as hidden:
        attention = block.attn(block.norm1(tokens, shift1, scale1))
        after_attention = torch.addcmul(tokens, gate1[:, None], attention)
        middle = after_attention if middle is None else middle
        mlp = block.mlp(block.norm2(middle, shift2, scale2))
    q_and_k = qkv[0][..., : qkv[0].shape[-1] * 2 // 3]
    return Branches((q_and_k, attention, hidden[0], mlp), after_attention, torch.addcmul(middle, gate2[:, None], mlp))


def layer_errors(full: DiT, model: DiT, batches: Iterator[tuple[Tensor, Tensor, Tensor]]) -> np.ndarray:
    """Relative squared errors (blocks, parts) of a quantized model's layers, over all batches."""
    different = torch.zeros(len(full.blocks), len(PARTS), dtype=torch.float64)
    size = torch.zeros_like(different)
    for x, timestep, label in batches:
        model.step_context.timestep = timestep
        tokens = full.x_embedder(x) + full.pos_embed
        condition = full.t_embedder(timestep, tokens.dtype) + full.y_embedder(label)
        for index, (block, other) in enumerate(zip(full.blocks, model.blocks, strict=True)):
            right = branches(cast(DiTBlock, block), tokens, condition)
            quantized = branches(cast(DiTBlock, other), tokens, condition, right.middle)
            for layer, (a, b) in enumerate(zip(right.parts, quantized.parts, strict=True)):
                different[index, layer] += float((a - b).double().square().sum())
                size[index, layer] += float(a.double().square().sum())
            tokens = right.output
    return (different / size).numpy()


def noise_errors(loaded: Checkpoint, protocol: Protocol, begin: Start, right: Followed) -> np.ndarray:
    """Relative squared errors (steps, images) of the predicted noise, at the x_t of the full-precision trajectory."""
    denoise = denoiser(loaded.model, begin.labels, protocol.cfg_scale, dtype=protocol.dtype)
    rows = []
    for index, (x, timestep, _) in inputs_along(right, begin):
        eps = predicted_noise(denoise(x, timestep), loaded.correction, right.steps[index])
        rows.append(mean_square(eps - right.eps[index]) / mean_square(right.eps[index]))
    return torch.stack(rows).cpu().numpy()


def mean_square(x: Tensor) -> Tensor:
    """Mean square of each image's values: (N, …) → (N,)."""
    return x.double().flatten(1).square().mean(dim=1)


def one_method(
    full: DiT, loaded: Checkpoint, protocol: Protocol, begin: Start, right: Followed
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays noise_error, drift and layer_error for one quantized model."""
    if loaded.correction is not None:
        loaded.correction.check(protocol.steps)
    every = -(-len(right.steps) // LAYER_STEPS)
    with torch.inference_mode():
        some = (batch for index, batch in inputs_along(right, begin) if index % every == 0)
        layers = layer_errors(full, loaded.model, some)
        if device_of(full).type == "cpu" and protocol.dtype == "float32":
            prepare_inference(loaded.model)  # faster; fuses the GELU that the layers' outputs were looked at before
        noise = noise_errors(loaded, protocol, begin, right)
        quantized = follow(loaded.model, protocol, begin, loaded.correction)
        drift = torch.stack([mean_square(a - b) for a, b in zip(quantized.x, right.x, strict=True)]).cpu().numpy()
    return noise, drift, layers


def compare(
    full: DiT,
    methods: Mapping[str, Callable[[], Checkpoint]],
    protocol: Protocol,
    *,
    samples: int,
) -> dict[str, np.ndarray]:
    """Compute all arrays of the comparison except `record`.

    If a method's checkpoint or model fails, its values are NaN and its status gives the reason.
    """
    begin = start(full, protocol, samples)
    right = follow(full, protocol, begin)
    steps, depth = len(right.steps), len(full.blocks)
    shapes = ((steps, samples), (steps + 1, samples), (depth, len(PARTS)))
    results, status = [], []
    for load in methods.values():
        try:
            loaded = load()
            loaded.model.to(device_of(full))
            results.append(one_method(full, loaded, protocol, begin, right))
            status.append(Status.OK.value)
        except (QditError, RuntimeError) as problem:
            results.append(tuple(np.full(shape, np.nan) for shape in shapes))  # type: ignore[arg-type]
            status.append(" ".join(str(problem).split()))
    noise, drift, layers = (np.stack(column) for column in zip(*results, strict=True))
    return {
        "labels": np.array(list(methods)),
        "status": np.array(status),
        "timesteps": np.array(right.timesteps),
        "parts": np.array(PARTS),
        "noise_error": noise,
        "drift": drift,
        "layer_error": layers,
    }


def compare_folders(
    full: Path, checkpoints: Mapping[str, Path], out: Path, protocol: Protocol, *, samples: int, device: str = "cpu"
) -> None:
    """Compare checkpoints with the full-precision checkpoint `full`, and write the arrays for the figures about errors.

    Raises CheckpointError or ConfigError for a folder that holds neither a checkpoint nor a recorded failure, for a
    checkpoint of other weights than `full`, and if `full` is quantized.
    """
    if not checkpoints:
        raise ConfigError("checkpoints: found none, there must be at least one to compare; give LABEL=FOLDER")
    for folder in checkpoints.values():
        if read_failure(folder) is None:
            require_quantized_from(full, folder)

    def loader(folder: Path) -> Callable[[], Checkpoint]:
        return lambda: load_checkpoint(folder)

    model = load_checkpoint(full).model.to(torch_device(device))
    loaders = {label: loader(folder) for label, folder in checkpoints.items()}
    arrays = compare(model, loaders, protocol, samples=samples)
    sources = {
        label: None if read_failure(folder) else checkpoint_sha256(folder) for label, folder in checkpoints.items()
    }
    record = {"checkpoints": sources, "protocol": protocol.to_dict(), "samples": samples}
    save_arrays(out, arrays | {"record": np.array(json.dumps(record, sort_keys=True))})


def require_quantized_from(full: Path, folder: Path) -> None:
    """Raise ConfigError unless `full` is a checkpoint of 16 bits and `folder` is a checkpoint of the same weights."""
    first, second = read_config(full), read_config(folder)
    bits = [first["record"].get(name) for name in ("weight_bits", "activation_bits")]
    if any(width not in (16, None) for width in bits):
        raise ConfigError(
            f"{full}: is {first['record'].get('method')} w{bits[0]}a{bits[1]}, full precision is w16a16; give a"
            " checkpoint of --method fp --bits w16a16"
        )
    digests = [config["record"].get("weights_sha256") for config in (first, second)]
    if first["model"] != second["model"] or (digests[0] != digests[1] and None not in digests):
        families = [config["model"]["family"] for config in (first, second)]
        shown = [f"{family} {str(digest)[:12]}…" for family, digest in zip(families, digests, strict=True)]
        raise ConfigError(
            f"{folder}: is of the weights {shown[1]}, full precision ({full}) of {shown[0]}; give checkpoints of the"
            " same weights"
        )
