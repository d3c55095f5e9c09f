"""Loading and saving of STDiT3 weights: our format, official files and folders, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qdit.core.errors import CheckpointError, ConfigError, Unsupported
from qdit.core.files import load_tensors, save_tensors
from qdit.models.loading import import_official, load_dit, load_model, read_model, save_model
from qdit.models.roles import select
from qdit.models.stdit3 import STDiT3
from qdit.models.stdit3_state import HIDDEN
from qdit.quant.folding import fold
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_inputs

OFFICIAL = {
    "architectures": ["STDiT3"],
    "model_type": "STDiT3",
    "input_size": [None, None, None],
    "input_sq_size": 16,
    "in_channels": 3,
    "patch_size": [1, 2, 2],
    "hidden_size": 24,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "caption_channels": 12,
    "model_max_length": 7,
    "pred_sigma": True,
    "qk_norm": True,
    "skip_y_embedder": False,
}

UNSEEN = {name: getattr(TINY_VIDEO, name) for name in HIDDEN}
"""What no tensor of an STDiT3 shows."""


@pytest.fixture
def tiny() -> STDiT3:
    return random_stdit3()


@pytest.fixture
def folder(tmp_path: Path, tiny: STDiT3) -> Path:
    """A model folder as Open-Sora published it, in miniature."""
    save_tensors(tmp_path / "hub" / "model.safetensors", tiny.state_dict())
    (tmp_path / "hub" / "config.json").write_text(json.dumps(OFFICIAL))
    return tmp_path / "hub"


def test_our_format_round_trip(tmp_path: Path, tiny: STDiT3) -> None:
    path = tmp_path / "video.safetensors"
    save_model(path, tiny, metadata={"form": "natural"})
    model = load_model(path)
    assert isinstance(model, STDiT3) and model.config == TINY_VIDEO and not model.training
    assert torch.equal(model(*video_inputs()), tiny(*video_inputs()))
    assert load_tensors(path)[1] == {"family": "stdit3", "model": TINY_VIDEO.to_dict(), "form": "natural"}
    save_model(tmp_path / "again.safetensors", model, metadata={"form": "natural"})
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_official_folder(folder: Path, tiny: STDiT3) -> None:
    model = load_model(folder)
    assert isinstance(model, STDiT3) and model.config.base_size == 16 and model.config.num_heads == 2
    inputs = video_inputs()
    sizes = {"fps": 24.0, "height": 8, "width": 12}
    assert torch.equal(model(*inputs, **sizes), tiny(*inputs, **sizes))


def test_official_folder_in_several_files(folder: Path, tiny: STDiT3) -> None:
    state = tiny.state_dict()
    names = list(state)
    parts = {"a.safetensors": names[:40], "b.safetensors": names[40:]}
    (folder / "model.safetensors").unlink()
    for file, own in parts.items():
        save_tensors(folder / file, {name: state[name] for name in own})
    weight_map = {name: file for file, own in parts.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(load_model(folder).state_dict()["rope.freqs"], state["rope.freqs"])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_bare_state_dict_tells_its_own_heads(tmp_path: Path, tiny: STDiT3, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(tiny.state_dict(), path) if suffix == ".pt" else save_tensors(path, tiny.state_dict())
    assert read_model(path, settings=UNSEEN).model.config == TINY_VIDEO


def test_what_no_tensor_shows_is_not_guessed(tmp_path: Path, tiny: STDiT3, one_line_error: Callable) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, tiny.state_dict())
    one_line_error(CheckpointError, lambda: load_model(path), "base_size, pixels_per_cell, fps, frame_positions")
    some = {name: UNSEEN[name] for name in ("base_size", "fps")}
    one_line_error(CheckpointError, lambda: read_model(path, settings=some), ": pixels_per_cell, frame_positions of")


def test_half_precision_becomes_float32_and_an_import_is_in_our_format(folder: Path, tiny: STDiT3) -> None:
    state = {name: tensor.to(torch.bfloat16) for name, tensor in tiny.state_dict().items()}
    save_tensors(folder / "model.safetensors", state)
    import_official(folder, folder.parent / "ours.safetensors")
    model = load_model(folder.parent / "ours.safetensors")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.t_block[1].weight, state["t_block.1.weight"].float())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("depth", 28, ("depth is 28", "show 2")),
        ("num_heads", 4, ("num_heads is 4", "show 2")),
        ("patch_size", [1, 4, 4], ("patch_size", "[1, 2, 2]")),
        ("qk_norm", False, ("qk_norm is False", "True")),
        ("input_sq_size", 0, ("base_size is 0", "1 to 65536")),
    ],
)
def test_folders_that_contradict_themselves_are_refused(
    folder: Path, one_line_error: Callable, name: str, value: object, words: tuple[str, ...]
) -> None:
    (folder / "config.json").write_text(json.dumps(OFFICIAL | {name: value}))
    one_line_error(CheckpointError, lambda: load_model(folder), *words)


def damage(state: dict[str, torch.Tensor], how: str) -> None:
    name = "temporal_blocks.1.cross_attn.kv_linear.weight"
    if how == "missing":
        del state[name]
    elif how == "surplus":
        state["temporal_blocks.1.attn.extra"] = torch.zeros(2)
    elif how == "shape":
        state[name] = state[name][:24]
    elif how == "nan":
        state[name] = state[name].clone().fill_(torch.nan)
    elif how == "block":
        for key in [key for key in state if key.startswith("temporal_blocks.1.")]:
            del state[key]


@pytest.mark.parametrize("how", ["missing", "surplus", "shape", "nan", "block"])
@pytest.mark.parametrize("own", [False, True])
def test_wrong_tensors_are_refused_in_one_line(
    tmp_path: Path, tiny: STDiT3, one_line_error: Callable, how: str, own: bool
) -> None:
    state = dict(tiny.state_dict())
    damage(state, how)
    metadata = {"family": "stdit3", "model": TINY_VIDEO.to_dict()} if own else None
    save_tensors(tmp_path / "video.safetensors", state, metadata)
    path, hidden = tmp_path / "video.safetensors", {} if own else UNSEEN
    one_line_error(CheckpointError, lambda: read_model(path, settings=hidden), "temporal_blocks.1.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "unet"}, ("family 'unet'", "dit, stdit3")),
        ({"model": TINY_VIDEO.to_dict() | {"frame_positions": 1}}, ("frame_positions is 1", "true or false")),
        ({"model": TINY_VIDEO.to_dict() | {"depth": True}}, ("depth is True",)),
        ({"model": TINY_VIDEO.to_dict() | {"dept": 2}}, ("unknown", "did you mean 'depth'")),
    ],
)
def test_wrong_metadata_is_refused_in_one_line(
    tmp_path: Path, tiny: STDiT3, one_line_error: Callable, change: dict, words: tuple[str, ...]
) -> None:
    metadata = {"family": "stdit3", "model": TINY_VIDEO.to_dict()} | change
    save_tensors(tmp_path / "video.safetensors", tiny.state_dict(), metadata)
    one_line_error(CheckpointError, lambda: load_model(tmp_path / "video.safetensors"), *words)


def test_steps_for_images_and_plain_formats_refuse_what_is_not_theirs(tmp_path: Path, tiny: STDiT3) -> None:
    path = tmp_path / "video.safetensors"
    save_model(path, tiny)
    with pytest.raises(ConfigError, match="video model"):
        load_dit(path)
    with pytest.raises(ConfigError, match="'family'"):
        save_model(path, tiny, metadata={"family": "dit"})
    fold(tiny, select(tiny.sites(), roles=("qkv",))[0], torch.full((24,), 2.0))
    with pytest.raises(Unsupported, match="norm1"):
        save_model(path, tiny)
