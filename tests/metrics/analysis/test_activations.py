"""Statistics of weights and activations against what plain loops find."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from qdit.core.errors import ConfigError
from qdit.core.files import load_arrays
from qdit.metrics.analysis.activations import FRACTIONS, Arrays, analyze, analyze_weights_file, pooled, spread
from qdit.metrics.analysis.trajectory import follow, inputs_along, start
from qdit.models.loading import save_model
from qdit.sampling.protocol import Protocol
from tests.small_models import random_dit

PROTOCOL = Protocol(steps=4, cfg_scale=1.5)
ROLES = ("qkv", "attn_out", "fc1", "fc2")
PATHS = {"qkv": "attn.qkv", "attn_out": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
SAMPLES = 3


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return analyze(random_dit(), PROTOCOL, samples=SAMPLES)


@pytest.fixture(scope="module")
def inputs() -> dict[tuple[str, int, int], np.ndarray]:
    """(role, block, step) → input (N, T, C), found by running the model up to each layer by hand."""
    model = random_dit()
    begin = start(model, PROTOCOL, SAMPLES)
    found = {}
    with torch.inference_mode():
        for place, (x, timestep, label) in inputs_along(follow(model, PROTOCOL, begin), begin):
            tokens = model.x_embedder(x) + model.pos_embed
            condition = model.t_embedder(timestep) + model.y_embedder(label)
            for number, block in enumerate(model.blocks):
                shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(condition).chunk(6, dim=1)
                found["qkv", number, place] = block.norm1(tokens, shift1, scale1)
                n, count, width = tokens.shape
                q, k, v = block.attn.qkv(found["qkv", number, place]).reshape(n, count, 3, 2, -1).permute(2, 0, 3, 1, 4)
                mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
                found["attn_out", number, place] = mixed.transpose(1, 2).reshape(n, count, width)
                tokens = tokens + gate1[:, None] * block.attn.proj(found["attn_out", number, place])
                found["fc1", number, place] = block.norm2(tokens, shift2, scale2)
                found["fc2", number, place] = block.mlp.act(block.mlp.fc1(found["fc1", number, place]))
                tokens = tokens + gate2[:, None] * block.mlp.fc2(found["fc2", number, place])
    return {key: value.numpy() for key, value in found.items()}


def test_quantiles_and_deviations(arrays: Arrays, inputs: dict[tuple[str, int, int], np.ndarray]) -> None:
    assert tuple(arrays["roles"]) == ROLES and arrays["quantiles"].shape == (4, 2, 4, len(FRACTIONS))
    for (role, block, step), x in inputs.items():
        at = (ROLES.index(role), block, step)
        np.testing.assert_allclose(arrays["quantiles"][at], np.quantile(x, FRACTIONS), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(arrays["deviation"][at], x.std(ddof=1), rtol=1e-4)
        alone = x.reshape(len(x), -1).std(axis=1, ddof=1)
        np.testing.assert_allclose(arrays["sample_deviation"][at], alone, rtol=1e-4)


def test_salience_of_the_chosen_layer(arrays: Arrays, inputs: dict[tuple[str, int, int], np.ndarray]) -> None:
    state = random_dit().state_dict()
    for number, role in enumerate(ROLES):
        block = int(arrays["chosen"][number])
        assert block == int(arrays["ratio"][number].argmax())
        weight = np.abs(state[f"blocks.{block}.{PATHS[role]}.weight"].numpy())
        of_weight, of_input = arrays[f"weight_salience_{role}"], arrays[f"salience_{role}"]
        np.testing.assert_array_equal(of_weight, weight.max(axis=0))
        np.testing.assert_array_equal(arrays[f"weight_output_salience_{role}"], weight.max(axis=1))
        np.testing.assert_array_equal(arrays[f"weight_map_{role}"], weight)
        for step in range(PROTOCOL.steps):
            right = np.abs(inputs[role, block, step]).max(axis=(0, 1))
            np.testing.assert_allclose(of_input[step], right, rtol=1e-4)
            rho = spearmanr(of_input[step], of_weight).statistic
            np.testing.assert_allclose(arrays[f"correlation_{role}"][step], rho, atol=1e-5)
        np.testing.assert_allclose(arrays[f"input_map_{role}"], np.abs(inputs[role, block, 2][0]), rtol=1e-4, atol=1e-5)


def test_rounding_errors_are_those_of_so_many_bits(arrays: Arrays) -> None:
    for role in ROLES:
        error, largest = arrays[f"weight_error_{role}"], float(arrays[f"weight_salience_{role}"].max())
        assert error.shape == arrays[f"weight_salience_{role}"].shape
        assert 0 < error.mean() < (2 * largest / 15) ** 2 / 4
        assert 0 < arrays[f"activation_error_{role}"].mean() < (2 * arrays[f"salience_{role}"].max() / 255) ** 2


def test_a_map_keeps_small_matrices_and_every_maximum() -> None:
    small = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    assert torch.equal(pooled(small), small.abs())
    large = torch.zeros(10, 1000)
    large[7, 503] = -9
    shown = pooled(large, cells=100)
    assert shown.shape == (10, 100) and shown[7, 50] == 9 and shown.sum() == 9


def test_spread_of_dead_channels_is_finite() -> None:
    assert spread(torch.tensor([1.0, 2.0, 4.0])) == 2
    assert np.isfinite(spread(torch.tensor([0.0, 0.0, 1.0])))


def test_one_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="samples 1.*at least 2"):
        analyze(random_dit(), PROTOCOL, samples=1)


def test_the_step_writes_equal_bytes_and_says_of_what(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_model(weights, random_dit())
    files = [tmp_path / name for name in ("a.npz", "b.npz")]
    for file in files:
        analyze_weights_file(weights, file, PROTOCOL, samples=2)
    assert files[0].read_bytes() == files[1].read_bytes()
    found = json.loads(str(load_arrays(files[0])["record"]))
    assert found["samples"] == 2 and found["protocol"]["steps"] == 4 and len(found["weights_sha256"]) == 64
