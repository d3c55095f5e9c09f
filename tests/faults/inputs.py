"""Small inputs in the shapes that people bring and that once failed: weights, batches, folders, VBench results.

Every value is drawn here. `make_all(folder)` writes all of them.
"""

import argparse
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qdit.core.files import save_tensors
from qdit.core.metrics import DIMENSIONS
from qdit.core.mp4 import write_mp4
from qdit.core.pixels import to_uint8
from qdit.metrics.extractors import load_extractor
from qdit.metrics.statistics import moments
from qdit.mini.data.data_sets import data_set
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.models.loading import save_model, to_diffusers
from tests.small_models import random_dit
from tests.small_video_models import TINY_VIDEO, random_stdit3

CUSTOM = DiTConfig(input_size=8, in_channels=4, hidden_size=64, depth=2, num_heads=4, num_classes=10)
SILENT = DiTConfig(input_size=8, in_channels=1, hidden_size=48, depth=2, num_heads=2, num_classes=10)
CLASSIFIER = Path("weights/digit-classifier.safetensors")
SHAPE = json.dumps({name: value for name, value in CUSTOM.to_dict().items() if value != getattr(DiTConfig(), name)})
WITHOUT_HEADS = json.dumps({name: value for name, value in json.loads(SHAPE).items() if name != "num_heads"})


def make_all(folder: Path) -> None:
    """Write every input below `folder`."""
    make_weights(folder / "weights")
    make_folders(folder / "folders")
    make_degenerate(folder / "degenerate")
    make_batches(folder / "batches")
    make_results(folder / "vbench")
    make_clips(folder / "clips")
    make_damaged(folder / "damaged")
    make_profiles(folder / "profiles")


def make_weights(folder: Path) -> None:
    """State dicts of one small DiT under the keys, prefixes and dtypes of other programs, and with parts missing."""
    folder.mkdir(parents=True)
    state = random_dit(CUSTOM).state_dict()
    contents: dict[str, Any] = {
        "plain": state,
        "train-py": {"model": state, "ema": state, "opt": {}, "args": argparse.Namespace(model="DiT-S/2")},
        "model-key": {"model": state},
        "state-dict-key": {"state_dict": state, "epoch": 3},
        "two-keys": {"model": state, "state_dict": state},
        "other-key": {"weights": state, "epoch": 3},
        "ddp-prefix": {f"module.{name}": tensor for name, tensor in state.items()},
        "compile-prefix": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "ema-ddp-prefix": {"ema": {f"module.{name}": tensor for name, tensor in state.items()}},
        "bf16": {name: tensor.bfloat16() for name, tensor in state.items()},
        "not-contiguous": {name: transposed(tensor) for name, tensor in state.items()},
        "numpy-scalar": {"model": state, "loss": np.float64(0.1)},
        "no-positions": without(state, "pos_embed"),
        "one-row-table": {**state, LABELS: state[LABELS][:1].clone()},
        "no-learned-sigma": {**state, **fixed_sigma(state)},
        "qk-norm": {**state, "blocks.0.attn.q_norm.weight": torch.ones(16)},
        "one-nan": {**state, "blocks.1.mlp.fc1.weight": with_nan(state["blocks.1.mlp.fc1.weight"])},
        "video": random_stdit3(TINY_VIDEO).state_dict(),
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pt")
    save_tensors(folder / "prefix.safetensors", {f"module.{name}": tensor for name, tensor in state.items()})


LABELS = "y_embedder.embedding_table.weight"


def transposed(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous().t() if tensor.ndim == 2 else tensor


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


def with_nan(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    copy[0, 0] = torch.nan
    return copy


def fixed_sigma(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output layer of a DiT without learned variance: half of the channels."""
    names = ("final_layer.linear.weight", "final_layer.linear.bias")
    return {name: state[name].unflatten(0, (4, 8))[:, :4].flatten(0, 1).clone() for name in names}


def make_folders(folder: Path) -> None:
    """Folders of diffusers: a model's, a pipeline's root, an fp16 variant, two variants, an STDiT3's, an empty one."""
    model = random_dit(SILENT)
    to_diffusers(model, folder / "dit")
    shutil.copytree(folder / "dit", folder / "pipeline" / "transformer")
    (folder / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}))
    name = "diffusion_pytorch_model"
    for variants in (("fp16",), ("fp16", "bf16")):
        target = folder / "-".join(variants)
        shutil.copytree(folder / "dit", target)
        for variant in variants:
            shutil.copy(target / f"{name}.safetensors", target / f"{name}.{variant}.safetensors")
        (target / f"{name}.safetensors").unlink()
    save_tensors(folder / "stdit3" / "model.safetensors", random_stdit3(TINY_VIDEO).state_dict())
    official = {"model_type": "STDiT3", "depth": 2, "hidden_size": 24, "num_heads": 2, "input_sq_size": 16}
    (folder / "stdit3" / "config.json").write_text(json.dumps(official))
    save_tensors(folder / "bare-stdit3.safetensors", random_stdit3(TINY_VIDEO).state_dict())
    (folder / "empty").mkdir()


def make_degenerate(folder: Path) -> None:
    """DiTs and an STDiT3 with silent or nearly silent parts."""

    def change(name: str, edit: Callable[[DiT], object]) -> None:
        model = random_dit(SILENT)
        with torch.no_grad():
            edit(model)
        save_model(folder / f"{name}.safetensors", model)

    def prune(model: Any) -> None:
        model.mlp.fc1.weight.zero_()
        model.mlp.fc1.bias.zero_()

    change("whole", lambda model: None)
    change("pruned-mlp", lambda model: prune(model.blocks[1]))
    change("dead-columns", lambda model: [p[:96].zero_() for p in model.blocks[1].mlp.fc1.parameters()])
    change("tiny-row", lambda model: model.blocks[0].attn.proj.weight[5].mul_(1e-8))
    change("tiny-layer", lambda model: model.blocks[0].attn.proj.weight.mul_(1e-7))
    change("huge-weight", lambda model: model.blocks[0].mlp.fc2.weight[3, 7].fill_(3e5))
    change("too-huge-weight", lambda model: model.blocks[0].mlp.fc2.weight[3, 7].fill_(3e9))
    change("zero-start", lambda model: [p.zero_() for p in model.final_layer.parameters()])
    video = random_stdit3(TINY_VIDEO)
    with torch.no_grad():
        prune(video.spatial_blocks[1])
        video.temporal_blocks[0].attn.proj.weight[5] *= 1e-8
    save_model(folder / "video.safetensors", video)


def make_batches(folder: Path) -> None:
    """Images and statistics of the digits in the layouts of other programs."""
    folder.mkdir(parents=True)
    grey = to_uint8(data_set("digits", "all").images)[:300]
    images = np.ascontiguousarray(np.asarray(grey).transpose(0, 2, 3, 1))
    found = load_extractor("digit-classifier", CLASSIFIER)(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    pool, spatial = moments(found.pool), moments(found.spatial)
    fid = {"mu": pool.mean, "sigma": pool.covariance}
    full = fid | {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    bad, skew = pool.covariance.copy(), pool.covariance.copy()
    bad[0, 0], skew[0, 1] = np.nan, 5.0
    files: dict[str, dict[str, Any]] = {
        "images-only": {"arr_0": images},
        "statistics-only": fid,
        "whole": full | {"arr_0": images},
        "no-channel": full | {"arr_0": images[:64, :, :, 0]},
        "float": full | {"arr_0": (images[:64] / 255).astype(np.float32)},
        "channels-first": full | {"arr_0": images[:64].transpose(0, 3, 1, 2)},
        "no-channel-images": {"arr_0": images[:64, :, :, 0]},
        "channels-first-images": {"arr_0": images[:64].transpose(0, 3, 1, 2)},
        "either-axis": {"arr_0": np.zeros((8, 3, 8, 3), np.uint8)},
        "five-axes": {"arr_0": np.zeros((8, 2, 8, 8, 3), np.uint8)},
        "colour": full | {"arr_0": images[:64].repeat(3, axis=3)},
        "fortran": full | {"arr_0": np.asfortranarray(images[:64])},
        "with-labels": {"arr_0": images[:64], "arr_1": np.arange(64) % 10},
        "wrong-labels": {"arr_0": images[:64], "arr_1": np.arange(63)},
        "three": full | {"arr_0": images[:3]},
        "three-images": {"arr_0": images[:3]},
        "nan-sigma": full | {"arr_0": images[:64], "sigma": bad},
        "skew-sigma": full | {"arr_0": images[:64], "sigma": skew},
        "text-mu": full | {"arr_0": images[:64], "mu": np.array(["a"] * len(pool.mean))},
        "wide-mu": {"mu": np.zeros(5), "sigma": np.eye(5)},
        "numbers": {"a": np.zeros(3), "b": np.zeros(3)},
    }
    for name, arrays in files.items():
        np.savez(folder / f"{name}.npz", **arrays)
    np.savez(folder / "object.npz", arr_0=np.array([images[0], images[1][:4]], dtype=object))
    make_pngs(folder, images)


def make_pngs(folder: Path, images: np.ndarray) -> None:
    """Folders of PNGs: digits, two sizes, one of them damaged, none."""
    for name in ("png", "png-sizes", "png-damaged", "png-alpha", "png-none"):
        (folder / name).mkdir()
    (folder / "png-many").mkdir()
    for number in range(80):
        Image.fromarray(images[number, :, :, 0]).save(folder / "png-many" / f"{number}.png")
    for number in range(12):
        for name in ("png", "png-sizes", "png-damaged"):
            Image.fromarray(images[number, :, :, 0]).save(folder / name / f"{number}.png")
        Image.fromarray(images[number, :, :, 0]).convert("RGBA").save(folder / "png-alpha" / f"{number}.png")
    Image.fromarray(images[0, :4, :, 0]).save(folder / "png-sizes" / "11.png")
    (folder / "png-damaged" / "3.png").write_bytes(b"\x89PNG not really")


def make_results(folder: Path) -> None:
    """VBench's results of all dimensions, with one score that it cannot have."""
    scores: dict[str, Any] = {
        "good": 0.3,
        "hundreds": 323.99,
        "negative": -0.4,
        "nan": float("nan"),
        "text": "0.3",
        "null": None,
        "true": True,
        "list": [0.3],
    }
    for name, score in scores.items():
        for dimension in DIMENSIONS:
            write_result(folder / name, dimension, score if dimension == "scene" else 0.9)
    for dimension in DIMENSIONS:
        write_result(folder / "clip-nan", dimension, 0.9, clips={"a-0.mp4": float("inf")})
        write_result(folder / "clips-list", dimension, 0.9, clips=[0.9])
        write_result(folder / "count-text", dimension, 0.9, samples="5")
        write_result(folder / "digests-list", dimension, 0.9, clips_sha256=["0"])
    (folder / "own.json").write_text(json.dumps({"scene": [0.4, []]}))
    (folder / "deep.json").write_text("[" * 50_000)


def write_result(folder: Path, dimension: str, score: Any, **changed: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"dimension": dimension, "score": score, "clips": {}, "skipped": [], "samples": 1, "suite_sha256": "0"}
    content |= {"clips_sha256": {}, "weights_sha256": {}, "packages": {"vbench": "0.1.5"}}
    (folder / f"{dimension}.json").write_text(json.dumps(content | changed))


def make_clips(folder: Path) -> None:
    """Four clips, a suite of one dimension for them, and damaged suites."""
    draw = np.random.default_rng(0)
    for prompt in ("a cup", "a street"):
        for number in range(2):
            frames = draw.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
            write_mp4(folder / "clips" / f"{prompt}-{number}.mp4", frames, fps=8)
    rows = [{"prompt_en": prompt, "dimension": ["temporal_flickering"]} for prompt in ("a cup", "a street")]
    (folder / "suite.json").write_text(json.dumps(rows))
    (folder / "one.json").write_text(json.dumps(rows[:1]))
    (folder / "names.json").write_text(json.dumps(["a cup"]))
    (folder / "deep.json").write_text("[" * 50_000)


def make_damaged(folder: Path) -> None:
    """Files that claim what they do not hold."""
    folder.mkdir(parents=True)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 1), }".ljust(117) + b"\n"
    with zipfile.ZipFile(folder / "huge.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64)
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", b"\0" * 10_000_000)
    whole = folder / "flags.npz"
    np.savez(whole, arr_0=np.zeros((8, 8, 8, 1), np.uint8))
    data = bytearray(whole.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # says that it is encrypted
    whole.write_bytes(data)
    (folder / "empty.npz").write_bytes(b"")
    (folder / "deep.json").write_text("[" * 50_000)


def make_profiles(folder: Path) -> None:
    """Overlays of the mini profile with one fault each."""
    folder.mkdir(parents=True)
    file = "files:\n  {path}: {{url: '{url}', megabytes: 1, licence: MIT, sha256: '" + 64 * "0" + "'}}\n"
    https = "https://example.org/x"
    overlays = {
        "twice": "seed: 0\nseed: 1\n",
        "outside": file.format(path="../x", url=https),
        "loaded": file.format(path="baselines/evil.py", url=https),
        "http": file.format(path="weights/x.safetensors", url="http://example.org/x"),
        "long": f"profile: {'x' * 300}\n",
        "typo": "metods: {}\n",
    }
    for name, text in overlays.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
