"""Files of keyword sets: the arguments of a transformer's forward pass for many samples, as safetensors and JSON.

An argument may nest tensors in lists and mappings. The safetensors file holds the tensors under their paths. Its
metadata hold the nesting as JSON, with the name of each tensor in its place. Nothing in a file is executed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qdit.core.errors import ConfigError, DataError, Unsupported
from qdit.core.files import load_tensors, require_finite, save_tensors
from qdit.quant.batches import Keywords
from qdit.sampling.calibration_set import require_made_with
from qdit.sampling.keyword_set import KeywordSet
from qdit.sampling.pipeline_protocol import PipelineProtocol

MARKS = "unconditional"
TENSOR, VALUE, LIST, TUPLE, MAPPING = "tensor", "value", "list", "tuple", "mapping"
PLAIN = (bool, int, float, str, type(None))


def save_keywords(path: Path, data: KeywordSet, facts: Mapping[str, Any] | None = None) -> None:
    """Write a keyword set (arguments of a forward pass), with its protocol and other `facts` about its origin.

    Raises Unsupported for an argument that is not built of tensors, numbers, words, lists, tuples and mappings.
    """
    tensors: dict[str, Tensor] = {MARKS: data.unconditional}
    trees = {
        name: described(values, name, tensors)
        for name, values in (("samples", data.keywords.samples), ("shared", data.keywords.shared))
    }
    metadata = {"kind": data.kind, "family": "diffusers", "protocol": data.protocol.to_dict(), **trees, **(facts or {})}
    save_tensors(path, tensors, metadata)


def load_keywords(path: Path) -> KeywordSet:
    """Read a keyword set from a file. Raises DataError for a file that is damaged, incomplete or of another family."""
    tensors, metadata = load_tensors(path, error=DataError)
    if not isinstance(metadata, dict) or metadata.get("family") != "diffusers" or MARKS not in tensors:
        raise DataError(f"{path}: not a calibration set of a transformer of diffusers; calibrate again")
    for name, tensor in tensors.items():
        require_finite(f"{path}: {name}", tensor)
    try:
        samples, shared = (restored(metadata[name], tensors) for name in ("samples", "shared"))
        data = KeywordSet.of(
            metadata["kind"],
            Keywords(samples, shared),
            PipelineProtocol(**metadata["protocol"]),
            unconditional=tensors[MARKS],
            weights_sha256=metadata.get("weights_sha256"),
        )
    except (KeyError, TypeError, ValueError, ConfigError) as problem:
        text = " ".join(str(problem).split())[:200]
        raise DataError(f"{path}: arguments and tensors disagree ({text}); calibrate again") from None
    if len(data.unconditional) != len(data):
        raise DataError(f"{path}: marks {len(data.unconditional)} of {len(data)} samples; calibrate again")
    return data


def load_keywords_of(path: Path, weights: Path) -> KeywordSet:
    """Read a keyword set from a file; DataError unless it was made with the weights of the second file."""
    loaded = load_keywords(path)
    require_made_with(loaded, path, weights)
    return loaded


def described(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The nesting of an argument as a JSON value, in which paths stand for tensors.

    The function adds each tensor to `tensors` under its path.
    """
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().contiguous().clone()
        return {TENSOR: path}
    if isinstance(tree, Mapping):
        return {MAPPING: {name: described(value, f"{path}.{name}", tensors) for name, value in tree.items()}}
    if isinstance(tree, list | tuple):
        kind = LIST if isinstance(tree, list) else TUPLE
        return {kind: [described(value, f"{path}.{index}", tensors) for index, value in enumerate(tree)]}
    if isinstance(tree, PLAIN):
        return {VALUE: tree}
    raise Unsupported(f"argument {path}: holds a {type(tree).__name__}; a file takes tensors, numbers, words and lists")


def restored(tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """Build an argument from its nesting as JSON and its tensors (the inverse of `described`)."""
    ((kind, content),) = tree.items()
    if kind == TENSOR:
        return tensors[content]
    if kind == MAPPING:
        return {name: restored(value, tensors) for name, value in content.items()}
    if kind in (LIST, TUPLE):
        values = [restored(value, tensors) for value in content]
        return values if kind == LIST else tuple(values)
    if kind == VALUE and isinstance(content, PLAIN):
        return content
    raise ValueError(f"unknown kind of argument {kind!r:.40}")


def in_float32(tree: Any) -> Any:
    """Convert a tensor in half precision to float32; any other value stays unchanged."""
    is_half = isinstance(tree, Tensor) and tree.dtype in (torch.float16, torch.bfloat16)
    return tree.float() if is_half else tree
