"""The driver of a tool's process, and our end of its pipe: right layers, right numbers, honest bytes, clear refusals.

The driver runs here in this process, with the suite's own torch and diffusers; test_process.py starts a real one.
"""

import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qdit.core.errors import ConfigError, DataError, Unsupported
from qdit.core.failure import is_result
from qdit.models.diffusers_format import to_diffusers
from qdit.sampling.tools import driver
from qdit.sampling.tools.contract import Request
from qdit.sampling.tools.process import Pipe, RemoteDiT, ToolFailed, quantized_facts
from qdit.sampling.tools.quantizing import layers_of
from qdit.sampling.tools.registry import find_tool
from tests.small_models import TINY, inputs, random_dit


class Rounded(nn.Module):
    """A linear with its weight rounded to bfloat16, as a tool would replace it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(linear.weight.bfloat16(), requires_grad=False), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.float(), self.bias)


def rounding(names: list[str]) -> Any:
    """A tool that rounds these layers, whatever it is asked for; without names those that it is asked for."""

    def quantize(transformer: Any, request: Request) -> Any:
        for name in names or request.layers:
            parent, _, leaf = name.rpartition(".")
            setattr(transformer.get_submodule(parent), leaf, Rounded(transformer.get_submodule(name)))
        return transformer

    return SimpleNamespace(package="torch", quantize=quantize)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    to_diffusers(random_dit(), path)
    return path


@pytest.fixture(autouse=True)
def gradients() -> Iterator[None]:
    """The driver switches gradients off for its process, which is this one."""
    yield
    torch.set_grad_enabled(True)


def job(folder: Path, **changes: Any) -> dict[str, Any]:
    values = {"model": str(folder), "bits": [8, 16], "layers": layers_of(TINY.depth), "calibration": None, "out": None}
    return values | {"batch": 4} | changes


def piped(transformer: Any) -> tuple[Pipe, threading.Thread]:
    """Our end of a pipe to a driver that serves in a thread."""
    ours, theirs = os.pipe(), os.pipe()
    answers = os.fdopen(theirs[1], "wb")
    thread = threading.Thread(target=driver.serve, args=(transformer, os.fdopen(ours[0], "rb"), answers), daemon=True)
    thread.start()
    process: Any = SimpleNamespace(stdin=os.fdopen(ours[1], "wb"), stdout=os.fdopen(theirs[0], "rb"))
    return Pipe(process, "Rounder"), thread


def test_predictions_are_those_of_our_model_with_the_same_layers_rounded(folder: Path) -> None:
    transformer, facts = driver.quantize(rounding([]), job(folder))
    assert (facts["layers"], facts["untouched"], facts["others"]) == (12, [], [])
    pipe, thread = piped(transformer)
    remote, ours = RemoteDiT(TINY, pipe), random_dit()
    with torch.no_grad():
        for block in ours.blocks:
            for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                linear.weight.copy_(linear.weight.bfloat16().float())
        batch = inputs(count=5)
        torch.testing.assert_close(remote(*batch), ours(*batch), rtol=1e-4, atol=1e-5)
        assert (ours(*batch) - random_dit()(*batch)).abs().max() > 1e-4, "rounding must show"
    assert remote.seconds > 0
    pipe.requests.close()
    thread.join(timeout=10)
    assert not thread.is_alive(), "the driver ends when the pipe is closed"


def test_bytes_are_those_of_all_tensors_that_are_held(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tensors.safetensors"
    _, facts = driver.quantize(rounding([]), job(folder, out=str(out)))
    width, depth = TINY.hidden_size, TINY.depth
    quantized = depth * (4 * width * width + 2 * 4 * width * width)
    assert facts["float_bytes"] - facts["memory_bytes"] == 2 * quantized
    assert 0 <= out.stat().st_size - facts["memory_bytes"] < 20_000, "the file is the tensors and a header"


def test_inner_tensors_of_a_subclass_count_and_shared_ones_count_once() -> None:
    inner = torch.zeros(10, dtype=torch.int8)
    weight = SimpleNamespace(__tensor_flatten__=lambda: (["codes", "scale"], None), codes=inner, scale=torch.zeros(2))
    model = SimpleNamespace(
        named_parameters=lambda: [("a", weight), ("b", weight)], named_buffers=lambda: [("c", inner)]
    )
    assert driver.held_bytes(model) == 10 + 2 * 4


def test_layers_that_a_tool_leaves_or_adds_are_no_silent_success(folder: Path) -> None:
    torchao = find_tool("torchao")

    def refusal(names: list[str]) -> str:
        _, facts = driver.quantize(rounding(names), job(folder))
        pipe: Any = SimpleNamespace(receive=lambda: (facts, b""))
        with pytest.raises(Unsupported) as refused:
            quantized_facts(pipe, torchao, "w8a16")
        return str(refused.value)

    layers = layers_of(TINY.depth)
    assert "left 11 of 12 layers unquantized at W8A16, first transformer_blocks.0.attn1.to_k" in refusal(layers[:1])
    assert "quantized 1 layers beyond scope common" in refusal([*layers, "proj_out_2"])


def test_calibration_data_reach_the_transformer_in_batches(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    x, timestep, label = inputs(count=6)
    save_file({"x": x, "timestep": timestep, "label": label}, tmp_path / "data.safetensors")
    seen: list[tuple[int, ...]] = []
    tool = rounding([])
    plain = tool.quantize

    def quantize(transformer: Any, request: Request) -> Any:
        hook = transformer.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
        request.calibrate()
        hook.remove()
        return plain(transformer, request)

    tool.quantize = quantize
    driver.quantize(tool, job(folder, calibration=str(tmp_path / "data.safetensors")))
    assert seen == [(4, 1, 8, 8), (2, 1, 8, 8)]


def answering(content: dict[str, Any], payload: bytes = b"", *, code: int = 0) -> Pipe:
    line = json.dumps(content).encode() + b"\n" if content else b""
    process: Any = SimpleNamespace(stdin=io.BytesIO(), stdout=io.BytesIO(line + payload), wait=lambda: code)
    return Pipe(process, "Rounder")


def test_failures_say_whose_they_are() -> None:
    with pytest.raises(ToolFailed, match="Rounder: ValueError: no groups of 5") as failed:
        answering({"error": "ValueError: no groups of 5", "installation": False}).receive()
    assert is_result(failed.value), "the tool's own failure is its row's result"
    with pytest.raises(ConfigError, match="ModuleNotFoundError.*`qdit tools install FOLDER`") as missing:
        answering({"error": "ModuleNotFoundError: torchao", "installation": True}).receive()
    assert not is_result(missing.value)
    with pytest.raises(ToolFailed, match="its process ended with code 1"):
        answering({}, code=1).receive()
    with pytest.raises(DataError, match="ended by signal 9, perhaps for memory") as killed:
        answering({}, code=-9).receive()
    assert not is_result(killed.value)


def test_an_answer_is_an_array_and_its_seconds() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    pipe = answering({"seconds": 0.5, "shape": [2, 3], "bytes": 24}, array.tobytes())
    answer, seconds = pipe.ask([array])
    assert seconds == 0.5 and (answer == array).all()
