"""Program of a tool's own process: it quantizes a diffusers transformer with the tool, then predicts noise on request.

It runs in the environment of the tools (`python -m qdit.sampling.tools.driver JOB`), where of the suite's packages only
torch, diffusers and safetensors are installed. Of the suite it imports only the base class of tools. JOB is JSON:
`tool` (file), `class`, `model` (diffusers folder), `bits` [weights, activations], `layers`, `calibration` (file or
null), `threads`, `out` (file for the tensors, or null).

The process speaks through a pipe. A message is a line of JSON, then as many bytes as the line says. The first message
is about the quantized transformer. Each request is then float32 x (N, C, L, L), int64 timesteps (N,) and labels (N,);
the answer is float32 noise and variance (N, 2C, L, L) and the CPU seconds of the forward pass.
"""

import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from qdit.sampling.tools.contract import Request, Tool


def load_tool(path: str, class_name: str) -> Tool:
    """Import a tool's file and make an instance of its class."""
    spec = importlib.util.spec_from_file_location("tool_file", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tool: Tool = getattr(module, class_name)()
    return tool


def load_transformer(folder: str) -> Any:
    """Load the transformer of a folder in eval mode, with the timestep frequencies that DiT was trained with."""
    from diffusers import DiTTransformer2DModel

    transformer = DiTTransformer2DModel.from_pretrained(folder, local_files_only=True).eval()
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return transformer.requires_grad_(False)


def quantize(tool: Tool, job: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Quantize the transformer of the job, and collect the facts about it for the first message."""
    import torch

    transformer = load_transformer(job["model"])
    float_bytes = held_bytes(transformer)
    layers = list(job["layers"])

    def calibrate() -> None:
        from safetensors.torch import load_file

        data = load_file(job["calibration"])
        columns = (data["x"].float(), data["timestep"].long(), data["label"].long())
        for x, timestep, label in zip(*(column.split(job["batch"]) for column in columns), strict=True):
            transformer(x, timestep=timestep, class_labels=label)

    weight_bits, activation_bits = job["bits"]
    transformer = tool.quantize(transformer, Request(weight_bits, activation_bits, layers, calibrate))
    untouched = [name for name in layers if not is_quantized(transformer.get_submodule(name))]
    others = [name for name, module in linears(transformer) if name not in layers and is_quantized(module)]
    facts = {
        "layers": len(layers),
        "untouched": untouched,
        "others": others,
        "float_bytes": float_bytes,
        "memory_bytes": held_bytes(transformer),
        "versions": {name: version(name) for name in (tool.package, "torch", "diffusers")},
    }
    if job["out"]:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in distinct(transformer)}, job["out"])
    torch.set_grad_enabled(False)
    return transformer, facts


def linears(transformer: Any) -> Iterator[tuple[str, Any]]:
    """Names and modules of all layers with a weight matrix."""
    for name, module in transformer.named_modules():
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2:
            yield name, module


def is_quantized(module: Any) -> bool:
    """Whether a tool has replaced a linear layer or its weight.

    A tool may leave a layer unchanged without saying so.
    """
    import torch

    weight: Any = getattr(module, "weight", None)
    plain = type(weight) in (torch.nn.Parameter, torch.Tensor) and weight.dtype == torch.float32
    return not (plain and type(module) in (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv2d))


def inner_tensors(name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """Yield the plain tensors inside a tensor, with names: the tensor itself, or the parts of a tensor subclass."""
    if hasattr(tensor, "__tensor_flatten__"):
        for part in tensor.__tensor_flatten__()[0]:
            yield from inner_tensors(f"{name}.{part}", getattr(tensor, part))
    else:
        yield name, tensor.detach()


def distinct(transformer: Any) -> Iterator[tuple[str, Any]]:
    """Yield all plain tensors that a transformer holds, with names. Tensors that share memory occur once."""
    seen = set()
    for name, tensor in [*transformer.named_parameters(), *transformer.named_buffers()]:
        for path, part in inner_tensors(name, tensor):
            memory_key = (part.untyped_storage().data_ptr(), part.storage_offset())
            if part.numel() and memory_key not in seen:
                seen.add(memory_key)
                yield path, part


def held_bytes(transformer: Any) -> int:
    """Bytes of all tensors that a transformer holds in memory."""
    return sum(part.numel() * part.element_size() for _, part in distinct(transformer))


def send(pipe: Any, facts: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message into the pipe: a line of JSON, then the payload."""
    pipe.write(json.dumps(facts | {"bytes": len(payload)}).encode() + b"\n" + payload)
    pipe.flush()


def serve(transformer: Any, requests: Any, answers: Any) -> None:
    """Answer requests for predicted noise until the other process closes the pipe."""
    import numpy as np
    import torch

    while line := requests.readline():
        request = json.loads(line)
        arrays = []
        for shape, kind in zip(request["shapes"], ("float32", "int64", "int64"), strict=True):
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            arrays.append(torch.from_numpy(np.frombuffer(requests.read(size), kind).reshape(shape).copy()))
        x, timestep, label = arrays
        start = time.process_time()
        with torch.no_grad():
            output = transformer(x, timestep=timestep, class_labels=label).sample
        seconds = time.process_time() - start
        result = output.float().contiguous().numpy()
        send(answers, {"seconds": seconds, "shape": list(result.shape)}, result.tobytes())


def main(job: dict[str, Any]) -> None:
    """Run a job. If it fails, the first message says so; the traceback goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a tool prints must not get into the messages
    try:
        tool = load_tool(job["tool"], job["class"])
        if job.get("prepare"):
            tool.prepare()
            send(answers, {"versions": {tool.package: version(tool.package)}})
            return
        import torch

        torch.set_num_threads(job["threads"])
        transformer, facts = quantize(tool, job)
    except Exception as problem:
        traceback.print_exc()
        send(answers, {"error": " ".join(f"{type(problem).__name__}: {problem}".split())[:400]} | kind_of(problem))
        return
    send(answers, facts)
    serve(transformer, sys.stdin.buffer, answers)


def kind_of(problem: Exception) -> dict[str, bool]:
    """Kind of a failure: a failure of the installation (for example a missing package), or of the tool itself."""
    return {"installation": isinstance(problem, ImportError | OSError | MemoryError)}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
