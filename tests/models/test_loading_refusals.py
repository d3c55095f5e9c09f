"""Every bad file of weights: damaged, hostile, not fitting; each one line, and nothing in it runs."""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, ConfigError, Unsupported
from qdit.core.files import save_tensors, sha256_file
from qdit.models.config import DiTConfig
from qdit.models.loading import import_official, load_model, save_model, write_manifest
from qdit.models.roles import replace
from qdit.models.state import build

HEADS = 2
"""Of the fixture `mini`."""


class Hostile:
    """Unpickling this creates a file: what a malicious checkpoint would do, harmlessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


# Damaged files


@pytest.fixture
def saved(tmp_path, mini) -> Path:
    path = tmp_path / "dit.safetensors"
    save_model(path, mini)
    return path


@pytest.mark.parametrize("keep", [0, 5, 100, -1000, -1])
@pytest.mark.parametrize("listed", [False, True])
def test_truncated_weights(saved, one_line_error, keep: int, listed: bool) -> None:
    if listed:
        write_manifest(saved.parent)
    saved.write_bytes(saved.read_bytes()[:keep])
    words = ["truncated", "manifest.json", "restore"] if listed else ["not a readable safetensors", "restore"]
    one_line_error(CheckpointError, lambda: load_model(saved), str(saved), *words)


@pytest.mark.parametrize("position", [3, 60, -1, -2000])
def test_flipped_bit_is_found_by_manifest_or_digest(saved, one_line_error, position: int) -> None:
    digest = sha256_file(saved)
    write_manifest(saved.parent)
    data = bytearray(saved.read_bytes())
    data[position] ^= 4
    saved.write_bytes(data)
    one_line_error(CheckpointError, lambda: load_model(saved), "sha256", "manifest.json", "damaged", "restore")
    one_line_error(CheckpointError, lambda: load_model(saved, sha256=digest), "sha256", digest[:12], "damaged")


def test_digest_given_wins_over_the_manifest(saved, mini, one_line_error) -> None:
    write_manifest(saved.parent)
    save_model(saved, mini, metadata={"changed": True})
    load_model(saved, sha256=sha256_file(saved))
    one_line_error(CheckpointError, lambda: load_model(saved), "manifest.json")


def test_missing_file_and_unknown_kind(tmp_path, one_line_error) -> None:
    one_line_error(CheckpointError, lambda: load_model(tmp_path / "gone.safetensors"), "gone", "no such file")
    (tmp_path / "weights.ckpt").write_bytes(b"x")
    one_line_error(CheckpointError, lambda: load_model(tmp_path / "weights.ckpt"), "'.ckpt'", ".safetensors, .pt")
    one_line_error(CheckpointError, lambda: load_model(tmp_path), "config.json")
    one_line_error(ConfigError, lambda: load_model(tmp_path, sha256="0" * 64), "folder")


# Files that run code


def hostile_files(folder: Path, marker: Path, state: dict[str, Tensor]) -> dict[str, Path]:
    """A pickle under each name, and .pt archives with a payload where weights should be or beside them."""
    bare = pickle.dumps(Hostile(marker), protocol=2)
    paths = {name: folder / name for name in ("bare.safetensors", "bare.pt", "archive.pt", "beside.pt", "legacy.pt")}
    paths["bare.safetensors"].write_bytes(bare)
    paths["bare.pt"].write_bytes(bare)
    torch.save(Hostile(marker), paths["archive.pt"])
    torch.save({"ema": state, "args": Hostile(marker)}, paths["beside.pt"])
    torch.save({**state, "x": Hostile(marker)}, paths["legacy.pt"], _use_new_zipfile_serialization=False)
    paths["archive.safetensors"] = folder / "archive.safetensors"
    paths["archive.safetensors"].write_bytes(paths["archive.pt"].read_bytes())
    return paths


def test_payloads_would_run_if_unpickled(tmp_path) -> None:
    pickle.loads(pickle.dumps(Hostile(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_pickles_in_the_place_of_weights_do_not_run(tmp_path, mini, one_line_error) -> None:
    marker = tmp_path / "marker"
    for name, path in hostile_files(tmp_path, marker, mini.state_dict()).items():
        words = (
            ["pickled weights are never opened"] if name.endswith("tensors") else ["cannot be read as plain weights"]
        )
        one_line_error(CheckpointError, lambda path=path: load_model(path, num_heads=HEADS), name, *words)
        one_line_error(CheckpointError, lambda path=path: import_official(path, tmp_path / "out.safetensors"), name)
        assert not marker.exists(), name
    assert not (tmp_path / "out.safetensors").exists()


def test_pt_files_that_are_no_checkpoints(tmp_path, mini, one_line_error) -> None:
    path = tmp_path / "x.pt"
    for content, word in (([1, 2], "list"), ({"ema": 3}, "int"), ({1: torch.zeros(1)}, "state dict")):
        torch.save(content, path)
        one_line_error(CheckpointError, lambda: load_model(path), "x.pt", word, "state dict")
    torch.save({"weights": mini.state_dict(), "epoch": 3}, path)
    one_line_error(CheckpointError, lambda: load_model(path), "holds no tensors", "epoch, weights")
    torch.save({"model": mini.state_dict(), "state_dict": mini.state_dict()}, path)
    one_line_error(CheckpointError, lambda: load_model(path), "'model' and 'state_dict'", "alone")
    torch.save({**mini.state_dict(), "epoch": 3}, path)
    one_line_error(CheckpointError, lambda: load_model(path, num_heads=2), "epoch", "int", "tensor")
    path.write_bytes(b"PK\x03\x04 not an archive")
    one_line_error(CheckpointError, lambda: load_model(path), "plain weights")
    torch.save(mini.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3000])
    one_line_error(CheckpointError, lambda: load_model(path), "plain weights")


# Tensors that do not fit


def write(path: Path, state: dict[str, Tensor], config: DiTConfig | dict) -> None:
    save_tensors(path, state, {"model": config if isinstance(config, dict) else config.to_dict()})


@pytest.mark.parametrize("name", ["blocks.1.attn.proj.bias", "pos_embed", "x_embedder.proj.weight"])
def test_missing_and_unexpected_tensors(saved, mini, one_line_error, name: str) -> None:
    state = mini.state_dict()
    tensor = state.pop(name)
    write(saved, state, mini.config)
    one_line_error(CheckpointError, lambda: load_model(saved), "missing", name, "give the weights that belong")
    write(saved, state | {name: tensor, "blocks.0.attn.rope": torch.zeros(2)}, mini.config)
    one_line_error(CheckpointError, lambda: load_model(saved), "1 are not expected (blocks.0.attn.rope)")


def test_weights_of_another_width_or_depth(saved, random_dit, mini, one_line_error) -> None:
    fields = mini.config.to_dict()
    wider = random_dit(DiTConfig(**fields | {"hidden_size": 48}))
    write(saved, wider.state_dict(), mini.config)
    one_line_error(
        CheckpointError, lambda: load_model(saved), "x_embedder.proj.weight", "(48, 1, 2, 2)", "(24, 1, 2, 2)"
    )
    write(saved, mini.state_dict(), fields | {"depth": 3})
    one_line_error(CheckpointError, lambda: load_model(saved), "blocks.2.mlp.fc1.weight", "missing", "3 blocks")
    write(saved, mini.state_dict(), fields | {"depth": 1})
    one_line_error(CheckpointError, lambda: load_model(saved), "10 are not expected (blocks.1.", "and 7 more")
    write(saved, mini.state_dict(), fields | {"num_classes": 11})
    one_line_error(CheckpointError, lambda: load_model(saved), "y_embedder.embedding_table.weight", "(11,", "(12,")


@pytest.mark.parametrize("name", ["blocks.1.attn.qkv.weight", "final_layer.linear.bias"])
def test_one_tensor_of_another_shape(saved, mini, one_line_error, name: str) -> None:
    state = mini.state_dict()
    expected = tuple(state[name].shape)
    state[name] = torch.zeros(7, 3)
    write(saved, state, mini.config)
    one_line_error(CheckpointError, lambda: load_model(saved), name, "(7, 3)", f"expected {expected}")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_wrong_dtype(saved, mini, one_line_error, dtype: torch.dtype) -> None:
    state = mini.state_dict()
    state["blocks.0.mlp.fc2.weight"] = state["blocks.0.mlp.fc2.weight"].to(dtype)
    write(saved, state, mini.config)
    words = ("blocks.0.mlp.fc2.weight", str(dtype).removeprefix("torch."), "float16")
    one_line_error(CheckpointError, lambda: load_model(saved), *words)


def test_tensors_without_ordinary_numbers(mini, one_line_error) -> None:
    state = mini.state_dict()
    name = "blocks.0.mlp.fc2.weight"
    for odd in (state[name].to_sparse(), state[name].to("meta")):
        one_line_error(CheckpointError, lambda odd=odd: build(state | {name: odd}, mini.config, where="x"), name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["pos_embed", "blocks.0.attn.qkv.bias"])
def test_values_that_are_not_finite(saved, mini, one_line_error, bad: float, name: str) -> None:
    state = {key: tensor.clone() for key, tensor in mini.state_dict().items()}
    state[name].view(-1)[3] = bad
    write(saved, state, mini.config)
    one_line_error(CheckpointError, lambda: load_model(saved), str(saved), name, "1 of", "NaN or infinite")


def test_doubles_beyond_float32_are_not_finite(saved, mini, one_line_error) -> None:
    state = {name: tensor.double() for name, tensor in mini.state_dict().items()}
    state["final_layer.linear.bias"][0] = 1e300
    write(saved, state, mini.config)
    one_line_error(CheckpointError, lambda: load_model(saved), "final_layer.linear.bias", "NaN or infinite")


# Configurations


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hiden_size": 24}, ["hiden_size", "did you mean 'hidden_size'"]),
        ({"hidden_size": "24"}, ["hidden_size is '24'", "integer"]),
        ({"depth": 0}, ["depth is 0", "1 to 65536"]),
        ({"depth": 10**9}, ["depth is 1000000000"]),
        ({"num_heads": True}, ["num_heads is True"]),
        ({"num_heads": 5}, ["num_heads 5", "divisor"]),
        ({"patch_size": 3}, ["input_size", "make it again"]),
    ],
)
def test_bad_configurations_in_the_metadata(saved, mini, one_line_error, changes, words) -> None:
    write(saved, mini.state_dict(), mini.config.to_dict() | changes)
    one_line_error(CheckpointError, lambda: load_model(saved), str(saved), *words)


def test_incomplete_or_absent_configuration(saved, mini, one_line_error) -> None:
    config = mini.config.to_dict()
    del config["depth"]
    write(saved, mini.state_dict(), config)
    one_line_error(CheckpointError, lambda: load_model(saved), "depth is None")
    save_tensors(saved, mini.state_dict(), {"model": [1]})
    one_line_error(CheckpointError, lambda: load_model(saved), "[1]", "object")
    save_tensors(saved, mini.state_dict())
    one_line_error(CheckpointError, lambda: load_model(saved), "24 wide and 2 deep", "pass num_heads")
    save_tensors(saved, {"packed": torch.zeros(3)}, {"method": "rtn"})
    one_line_error(CheckpointError, lambda: load_model(saved), "x_embedder.proj.weight is missing", "packed")


def test_heads_that_contradict_the_file(saved, one_line_error) -> None:
    load_model(saved, num_heads=HEADS)
    one_line_error(ConfigError, lambda: load_model(saved, num_heads=3), "num_heads 3", "2")


# Saving


def test_only_plain_finite_models_are_saved(tmp_path, mini, one_line_error) -> None:
    path = tmp_path / "dit.safetensors"
    one_line_error(ConfigError, lambda: save_model(path, mini, metadata={"model": 1}), "'model'")
    mini.blocks[0].mlp.fc1.bias.data[0] = float("nan")
    one_line_error(CheckpointError, lambda: save_model(path, mini), "blocks.0.mlp.fc1.bias", "NaN")
    replace(mini, "blocks.0.norm1", nn.Identity())
    one_line_error(Unsupported, lambda: save_model(path, mini), "blocks.0.norm1", "qdit.quant.checkpoint")
    assert not path.exists()


def test_a_header_that_lies_about_its_length_is_refused(tmp_path, one_line_error) -> None:
    path = tmp_path / "dit.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    one_line_error(CheckpointError, lambda: load_model(path), "not a readable safetensors")
