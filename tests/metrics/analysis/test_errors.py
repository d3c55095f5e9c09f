"""Errors by timestep and layer: closed forms of models that are damaged at one known place."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.files import load_arrays
from qdit.metrics.analysis.errors import PARTS, branches, compare, compare_folders
from qdit.models.dit import DiT
from qdit.quant.checkpoint import Checkpoint, Quantized, save_checkpoint
from qdit.sampling.protocol import Protocol
from tests.small_models import inputs, random_dit

PROTOCOL = Protocol(steps=4)
BY = 0.25
Damage = Callable[[DiT], None]


def damaged(*damage: Damage) -> Checkpoint:
    model = copy.deepcopy(random_dit())
    with torch.no_grad():
        for one in damage:
            one(model)
    return Checkpoint(model, None, {})


def compared(*damage: Damage, protocol: Protocol = PROTOCOL) -> dict[str, np.ndarray]:
    return compare(random_dit(), {"it": lambda: damaged(*damage)}, protocol, samples=3)


def louder_mlp(model: DiT) -> None:
    model.blocks[1].mlp.fc2.weight *= 1 + BY
    model.blocks[1].mlp.fc2.bias *= 1 + BY


def louder_q_and_k(model: DiT) -> None:
    rows = model.blocks[0].attn.qkv.weight.shape[1] * 2
    model.blocks[0].attn.qkv.weight[:rows] *= 1 + BY
    model.blocks[0].attn.qkv.bias[:rows] *= 1 + BY


def louder_end(model: DiT) -> None:
    model.final_layer.linear.weight *= 1 + BY
    model.final_layer.linear.bias *= 1 + BY


def moved_factors(model: DiT) -> None:
    """What folding methods do: V's rows times k and the projection's columns by k; fc1's input likewise with adaLN."""
    block, width = model.blocks[0], model.config.hidden_size
    k = torch.linspace(0.5, 3, width)
    block.attn.qkv.weight[2 * width :] *= k[:, None]
    block.attn.qkv.bias[2 * width :] *= k
    block.attn.proj.weight /= k
    adaln, shift, scale = block.adaLN_modulation[1], slice(3 * width, 4 * width), slice(4 * width, 5 * width)
    adaln.weight[shift] *= k[:, None]
    adaln.bias[shift] *= k
    adaln.weight[scale] *= k[:, None]
    adaln.bias[scale] = (1 + adaln.bias[scale]) * k - 1
    block.mlp.fc1.weight /= k


def test_branches_are_the_block() -> None:
    model = random_dit()
    x, timestep, label = inputs()
    with torch.inference_mode():
        tokens = model.x_embedder(x) + model.pos_embed
        condition = model.t_embedder(timestep) + model.y_embedder(label)
        for block in model.blocks:
            found = branches(block, tokens, condition)
            assert torch.equal(found.output, block(tokens, condition))
            width = tokens.shape[-1]
            assert [part.shape[-1] for part in found.parts] == [2 * width, width, 4 * width, width]
            again = branches(block, tokens, condition, found.middle)
            assert torch.equal(again.output, found.output)


def test_full_precision_has_no_error() -> None:
    found = compared()
    assert list(found["status"]) == ["ok"] and list(found["labels"]) == ["it"]
    assert found["layer_error"].shape == (1, 2, len(PARTS)) and not found["layer_error"].any()
    # sampling packs weights for oneDNN, which rounds otherwise
    assert found["noise_error"].shape == (1, 4, 3) and found["noise_error"].max() < 1e-9
    assert found["drift"].shape == (1, 5, 3) and found["drift"].max() < 1e-7


@pytest.mark.parametrize(
    ("damage", "block", "part", "touched"),
    [
        (louder_mlp, 1, "MLP", {(1, "MLP")}),
        (louder_q_and_k, 0, "q and k", {(0, "q and k"), (0, "attention")}),
    ],
)
def test_a_louder_layer_has_its_own_error_and_no_other(
    damage: Damage, block: int, part: str, touched: set[tuple[int, str]]
) -> None:
    error = compared(damage)["layer_error"][0]
    assert error[block, PARTS.index(part)] == pytest.approx(BY**2, rel=1e-4)
    assert {(b, PARTS[p]) for b, p in zip(*np.nonzero(error > 1e-12), strict=True)} == touched


def test_factors_that_were_moved_are_no_error() -> None:
    found = compared(moved_factors)
    assert found["layer_error"].max() < 1e-9 and found["noise_error"].max() < 1e-9


def test_error_of_the_noise_is_relative_and_the_trajectory_drifts() -> None:
    found = compared(louder_end)
    np.testing.assert_allclose(found["noise_error"], BY**2, rtol=1e-3)
    drift = found["drift"][0]
    assert not drift[0].any() and (drift[1:] > 1e-6).all()
    assert not found["layer_error"].any()


class Half:
    """A correction that takes half of the noise away."""

    def apply(self, eps: torch.Tensor, step: int) -> torch.Tensor:
        return eps / 2

    def variance(self, step: int) -> float:
        return 0.0

    def check(self, steps: int) -> None:
        assert steps == PROTOCOL.steps


def test_a_correction_counts_after_guidance() -> None:
    protocol = Protocol(steps=4, cfg_scale=1.5)
    corrected = Checkpoint(copy.deepcopy(random_dit()), Half(), {})  # type: ignore[arg-type]
    found = compare(random_dit(), {"it": lambda: corrected}, protocol, samples=2)
    np.testing.assert_allclose(found["noise_error"], 0.25, rtol=1e-3)


def test_a_method_that_fails_keeps_its_place_and_says_why() -> None:
    def broken() -> Checkpoint:
        raise CheckpointError("holds no checkpoint, failed: too few\nbits")

    found = compare(random_dit(), {"broken": broken, "whole": lambda: damaged()}, PROTOCOL, samples=2)
    assert list(found["status"]) == ["holds no checkpoint, failed: too few bits", "ok"]
    for name in ("noise_error", "drift", "layer_error"):
        assert np.isnan(found[name][0]).all() and np.isfinite(found[name][1]).all()


def test_the_step_reads_checkpoints_and_writes_equal_bytes(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("fp", "loud")}
    for name, model in (("fp", random_dit()), ("loud", damaged(louder_end).model)):
        save_checkpoint(folders[name], Quantized(model), {})
    files = [tmp_path / name for name in ("a.npz", "b.npz")]
    for file in files:
        compare_folders(folders["fp"], {"loud": folders["loud"]}, file, PROTOCOL, samples=2)
    assert files[0].read_bytes() == files[1].read_bytes()
    np.testing.assert_allclose(load_arrays(files[0])["noise_error"], BY**2, rtol=1e-3)
    with pytest.raises(ConfigError, match="found none"):
        compare_folders(folders["fp"], {}, files[0], PROTOCOL, samples=2)
