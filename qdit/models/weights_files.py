"""Find the files of a model's weights, compute their digest, and read official pickles safely.

Weights are a file or a folder: a model folder of diffusers, a pipeline folder that contains one, or Open-Sora's folder.
Nothing in a file is executed. Official .pt files are read with torch's weights-only unpickler, only in this file.
"""

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors, one_line, read_json, sha256_file, sha256_json
from qdit.models.manifest import check_file

CONFIG_FILE = "config.json"
PIPELINE_FILE = "model_index.json"
TRANSFORMER = "transformer"
"""A pipeline's folder of the network that is quantized here."""

OFFICIAL_SUFFIXES = (".pt", ".pth")

PREFERRED = "ema"
"""Key of the moving average in a checkpoint of DiT's train.py: what is sampled with."""
CONTAINERS = ("model", "state_dict", "module")
"""Keys under which other programs keep the weights."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile put before every name."""


def model_folder(folder: Path) -> Path:
    """Folder that holds the network: `folder` itself, or its subfolder `transformer` if `folder` holds a pipeline.

    Raises CheckpointError if that folder has no config.json.
    """
    if (folder / PIPELINE_FILE).is_file():
        folder = folder / TRANSFORMER
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder beside {PIPELINE_FILE}; give the folder of a DiT pipeline")
    if not (folder / CONFIG_FILE).is_file():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise CheckpointError(
            f"{folder}: has no {CONFIG_FILE}, found {names}; give a model's folder of diffusers (a pipeline's"
            f" {TRANSFORMER}), an STDiT3 folder, or a file of weights"
        )
    return folder


def weight_files(folder: Path, weights: str) -> list[Path]:
    """Safetensors files of a model folder: the file `weights`, the files that its index lists, or its only variant.

    A variant is for example fp16. Raises CheckpointError if there is no file, if there are several variants, or if the
    index names a file in another folder.
    """
    index = f"{weights}.index.json"
    stem = weights.removesuffix(".safetensors")
    if (folder / index).is_file():
        return indexed_files(folder / index)
    if (folder / weights).is_file():
        return [folder / weights]
    variants = [path for path in sorted(folder.glob(f"{stem}.*.safetensors")) if "-of-" not in path.name]
    patterns = (f"{stem}.safetensors.index.*.json", f"{stem}.*.safetensors.index.json")
    indices = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if len(variants) + len(indices) == 1:
        return variants or indexed_files(indices[0])
    if variants or indices:
        listed = ", ".join(path.name for path in [*variants, *indices])
        raise CheckpointError(f"{folder}: has several variants and no {weights} ({listed}); keep the one that is meant")
    raise CheckpointError(
        f"{folder}: has neither {weights}, a variant of it (*.fp16.safetensors), nor its index (pickled .bin weights"
        " are never opened); save the model with safe_serialization=True"
    )


def indexed_files(index: Path) -> list[Path]:
    """Files that an index lists. Each must be in the folder of the index."""
    content = read_json(index, error=CheckpointError)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(is_file_name(file) for file in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must give a file of this folder for every tensor; restore it")
    return [index.with_name(file) for file in sorted(set(weight_map.values()))]


def is_file_name(name: Any) -> bool:
    """Whether `name` is a plain file name, not a path to another folder."""
    return isinstance(name, str) and Path(name).name == name


def read_weights(folder: Path, weights: str) -> dict[str, Tensor]:
    """Read the tensors of a model folder. Each file is checked against the manifest in the folder, if it has one."""
    state: dict[str, Tensor] = {}
    for file in weight_files(folder, weights):
        check_file(file)
        state |= load_tensors(file)[0]
    return state


def weights_sha256(path: Path) -> str:
    """Digest of weights: of the file, or for a folder of its configuration and safetensors files together."""
    if not path.is_dir():
        return sha256_file(path)
    folder = model_folder(path)
    files = [folder / CONFIG_FILE, *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.index*.json"))]
    return sha256_json({file.name: sha256_file(file) for file in files})


def read_official(path: Path) -> dict[str, Any]:
    """Read the state dict of a `.pt` file: its content itself, or its entry `ema`, `model` or `state_dict`.

    Raises CheckpointError for any other content. The message names the keys of the file.
    """
    try:
        # train.py stores its argparse.Namespace beside the weights: a plain holder of attributes, safe to rebuild.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about the same file that is refused in one line below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as problem:  # a damaged or hostile pickle can raise anything
        raise CheckpointError(f"{path}: {unreadable(problem)}") from None
    return state_within(content, where=str(path))


def unreadable(problem: Exception) -> str:
    """One line of text that says why a pickle was not read, and what to do."""
    text = one_line(problem, limit=2000)
    if refused := re.search(r"Unsupported (?:global|class|operand): (?:GLOBAL )?`?([\w.]+)", text):
        return (
            f"holds a {refused[1]} besides tensors, which is never rebuilt; only tensors are accepted and nothing in"
            " the file was run: save the state dict alone, as in torch.save(model.state_dict(), path)"
        )
    return (
        f"cannot be read as plain weights ({one_line(text)}); only tensors are accepted and nothing in the file was"
        " run; get the file again from its publisher"
    )


def state_within(content: Any, *, where: str) -> dict[str, Any]:
    """Find the state dict in the content of a checkpoint.

    The moving average (`ema`) is preferred to the weights themselves.
    """
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(
            f"{where}: holds a {type(content).__name__}, expected a state dict (tensor name → tensor) or a dictionary"
            f" with one under {PREFERRED!r}, {', '.join(map(repr, CONTAINERS))}; give an official checkpoint"
        )
    container_keys = [key for key in CONTAINERS if isinstance(content.get(key), Mapping)]
    if PREFERRED in content:
        return state_within_key(content, PREFERRED, where=where)
    if len(container_keys) > 1:
        raise CheckpointError(
            f"{where}: holds weights under {' and '.join(map(repr, container_keys))}, either could be meant; save the"
            " state dict that is meant alone"
        )
    return state_within_key(content, container_keys[0], where=where) if container_keys else dict(content)


def state_within_key(content: Mapping[str, Any], key: str, *, where: str) -> dict[str, Any]:
    """The state dict under one key of a checkpoint's content."""
    state = content[key]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(
            f"{where}: holds a {type(state).__name__} under {key!r}, expected a state dict (tensor name → tensor);"
            " give an official checkpoint"
        )
    return dict(state)


def without_wrappers(state: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the name prefixes (such as `module.`) that a wrapper of the model added to all tensor names."""
    names = dict(state)
    while names and (prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in names)), None)):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names
