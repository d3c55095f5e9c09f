"""The DiT against the published counts, the official names, and a second implementation in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from qdit.core.errors import ConfigError
from qdit.models.config import DiTConfig
from qdit.models.dit import DIT_XL_2_256, DIT_XL_2_512, DiT, sincos_positions, timestep_frequencies
from qdit.models.roles import replace, select


def on_meta(config: DiTConfig) -> DiT:
    with torch.device("meta"):
        return DiT(config)


class Passing(nn.Module):
    """An identity that is not nn.Identity: makes an operand site active without changing it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


@pytest.mark.parametrize(("config", "positions"), [(DIT_XL_2_256, 294_912), (DIT_XL_2_512, 1_179_648)])
def test_xl_has_the_published_number_of_parameters(config: DiTConfig, positions: int) -> None:
    model = on_meta(config)
    assert sum(p.numel() for p in model.parameters()) == 674_834_720
    assert sum(t.numel() for t in model.state_dict().values()) == 674_834_720 + positions
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 144
    core = select(model.sites(), roles=("qkv", "attn_out", "fc1", "fc2"))
    assert len(core) == 112
    assert sum(model.get_submodule(s.name).weight.numel() for s in core) == 28 * 12 * 1152**2


def test_xl_state_dict_has_the_official_names_and_shapes() -> None:
    width = 1152
    expected: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 256, width),
        "x_embedder.proj.weight": (width, 4, 2, 2),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "y_embedder.embedding_table.weight": (1001, width),
        "final_layer.linear.weight": (32, width),
        "final_layer.linear.bias": (32,),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
    }
    in_block = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
        "adaLN_modulation.1": (6 * width, width),
    }
    for index in range(28):
        for name, shape in in_block.items():
            expected[f"blocks.{index}.{name}.weight"] = shape
            expected[f"blocks.{index}.{name}.bias"] = shape[:1]
    assert {name: tuple(t.shape) for name, t in on_meta(DIT_XL_2_256).state_dict().items()} == expected


def reference_layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def reference_silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def reference_attention(tokens: np.ndarray, state: dict[str, np.ndarray], prefix: str, heads: int) -> np.ndarray:
    """One image: loops over heads, rows q, then k, then v of the fused linear, each split into heads."""
    width = tokens.shape[-1]
    size = width // heads
    fused = tokens @ state[f"{prefix}.qkv.weight"].T + state[f"{prefix}.qkv.bias"]
    mixed = np.zeros_like(tokens)
    for head in range(heads):
        q, k, v = (fused[:, part * width + head * size : part * width + (head + 1) * size] for part in range(3))
        scores = q @ k.T / np.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed[:, head * size : (head + 1) * size] = weights / weights.sum(-1, keepdims=True) @ v
    return mixed @ state[f"{prefix}.proj.weight"].T + state[f"{prefix}.proj.bias"]


def reference_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def reference_condition(state: dict[str, np.ndarray], timestep: int, label: int) -> np.ndarray:
    frequencies = np.array([10000.0 ** (-j / 128) for j in range(128)])
    embedded = np.concatenate([np.cos(timestep * frequencies), np.sin(timestep * frequencies)])
    hidden = reference_silu(embedded @ state["t_embedder.mlp.0.weight"].T + state["t_embedder.mlp.0.bias"])
    hidden = hidden @ state["t_embedder.mlp.2.weight"].T + state["t_embedder.mlp.2.bias"]
    return hidden + state["y_embedder.embedding_table.weight"][label]


def reference_position(width: int, row: int, column: int) -> np.ndarray:
    quarter = width // 4
    omega = [10000.0 ** (-k / quarter) for k in range(quarter)]
    return np.array([f(p * w) for p in (column, row) for f in (np.sin, np.cos) for w in omega])


def reference_forward(
    config: DiTConfig, state: dict[str, np.ndarray], x: np.ndarray, timestep: int, label: int
) -> np.ndarray:
    """One image (C, L, L) → (2C, L, L), written from the architecture's description alone."""
    patch, width, side = config.patch_size, config.hidden_size, config.input_size // config.patch_size
    condition = reference_silu(reference_condition(state, timestep, label))
    tokens = np.zeros((side * side, width))
    for row in range(side):
        for column in range(side):
            square = x[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            embedded = (state["x_embedder.proj.weight"] * square).sum((1, 2, 3)) + state["x_embedder.proj.bias"]
            tokens[row * side + column] = embedded + reference_position(width, row, column)
    for index in range(config.depth):
        prefix = f"blocks.{index}"
        six = state[f"{prefix}.adaLN_modulation.1.weight"] @ condition + state[f"{prefix}.adaLN_modulation.1.bias"]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = six.reshape(6, width)
        modulated = reference_layer_norm(tokens) * (1 + scale_a) + shift_a
        tokens = tokens + gate_a * reference_attention(modulated, state, f"{prefix}.attn", config.num_heads)
        modulated = reference_layer_norm(tokens) * (1 + scale_m) + shift_m
        hidden = reference_gelu(modulated @ state[f"{prefix}.mlp.fc1.weight"].T + state[f"{prefix}.mlp.fc1.bias"])
        tokens = tokens + gate_m * (hidden @ state[f"{prefix}.mlp.fc2.weight"].T + state[f"{prefix}.mlp.fc2.bias"])
    last = "final_layer.adaLN_modulation.1"
    shift, scale = (state[f"{last}.weight"] @ condition + state[f"{last}.bias"]).reshape(2, width)
    tokens = reference_layer_norm(tokens) * (1 + scale) + shift
    tokens = tokens @ state["final_layer.linear.weight"].T + state["final_layer.linear.bias"]
    out = np.zeros((config.out_channels, config.input_size, config.input_size))
    for token, vector in enumerate(tokens):
        row, column = divmod(token, side)
        for offset, value in enumerate(vector):
            down, rest = divmod(offset, patch * config.out_channels)
            right, channel = divmod(rest, config.out_channels)
            out[channel, row * patch + down, column * patch + right] = value
    return out


def test_forward_equals_a_second_implementation_in_float64(random_dit) -> None:
    config = DiTConfig(input_size=6, in_channels=3, hidden_size=24, depth=2, num_heads=3, num_classes=7)
    model = random_dit(config)
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    x = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    timesteps, labels = [0, 7, 30], [7, 0, 4]
    ours = model(x, torch.tensor(timesteps), torch.tensor(labels)).double().numpy()
    for index in range(3):
        expected = reference_forward(config, state, x[index].double().numpy(), timesteps[index], labels[index])
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(ours[index], expected, atol=1e-5 * np.abs(expected).max())


def test_positions_encode_the_column_first() -> None:
    table = sincos_positions(8, 3)[0].double().numpy()
    np.testing.assert_allclose(table[3 * 1 + 2], reference_position(8, row=1, column=2), atol=1e-7)
    np.testing.assert_array_equal(table[[0, 3, 6], :4], np.tile([0, 0, 1, 1], (3, 1)))


def test_frequencies_divide_by_half_not_half_minus_one() -> None:
    result = timestep_frequencies(torch.tensor([1000]), 256)[0].double().numpy()
    assert np.isclose(np.arctan2(result[255], result[127]), 1000 * 10000.0 ** (-127 / 128), atol=1e-5)


def test_labels_matter_and_the_null_class_is_the_last_row(small, batch) -> None:
    x, t, _ = batch(small.config)
    null = torch.full((5,), small.config.null_class)
    unconditional = small(x, t, null)
    assert small.config.null_class == 10 == small.y_embedder.embedding_table.num_embeddings - 1
    assert (small(x, t, torch.zeros_like(null)) - unconditional).abs().max() > 0.1
    small.y_embedder.embedding_table.weight[:10] = 0
    torch.testing.assert_close(small(x, t, null), unconditional)


def test_rows_of_a_batch_do_not_mix(small, batch) -> None:
    x, t, y = batch(small.config)
    whole = small(x, t, y)
    alone = torch.cat([small(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operands", ["q", "k", "p", "v", "qkpv"])
def test_written_out_attention_equals_the_fused_one(small, batch, operands: str) -> None:
    inputs = batch(small.config)
    fused = small(*inputs)
    for site in select(small.sites(), roles=tuple(operands)):
        replace(small, site, Passing())
    torch.testing.assert_close(small(*inputs), fused, rtol=1e-4, atol=2e-5)


def test_operand_sites_see_heads_and_probabilities(small, batch) -> None:
    seen: dict[str, torch.Tensor] = {}

    class Recording(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen[self.name] = x
            return x

    for operand in "qkpv":
        replace(small, f"blocks.1.attn.{operand}", Recording(operand))
    small(*batch(small.config))
    assert {name: tuple(x.shape) for name, x in seen.items()} == {
        "q": (5, 4, 16, 12),
        "k": (5, 4, 16, 12),
        "v": (5, 4, 16, 12),
        "p": (5, 4, 16, 16),
    }
    torch.testing.assert_close(seen["p"].sum(-1), torch.ones(5, 4, 16))
    assert (seen["p"] >= 0).all()


def test_active_operands_change_the_output(small, batch) -> None:
    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    inputs = batch(small.config)
    before = small(*inputs)
    for operand in "qkpv":
        changed = copy.deepcopy(small)
        replace(changed, f"blocks.0.attn.{operand}", Doubling())
        assert (changed(*inputs) - before).abs().max() > 1e-3


def test_a_deep_copy_is_independent_and_equal(small, batch) -> None:
    inputs = batch(small.config)
    before = small(*inputs)
    twin = copy.deepcopy(small)
    assert twin.step_context is not small.step_context
    torch.testing.assert_close(twin(*inputs), before, rtol=0, atol=0)
    for parameter in twin.parameters():
        parameter.zero_()
    torch.testing.assert_close(small(*inputs), before, rtol=0, atol=0)


def test_forward_publishes_the_timestep_to_sites_of_a_copy(small, batch) -> None:
    """A site that holds the context of its model reads its own model's timestep, also after a deep copy."""

    class Reader(nn.Module):
        def __init__(self, context: object) -> None:
            super().__init__()
            self.context, self.seen = context, None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = self.context.timestep
            return x

    replace(small, "blocks.0.attn.v", Reader(small.step_context))
    twin = copy.deepcopy(small)
    x, t, y = batch(small.config)
    twin(x, t, y)
    assert torch.equal(twin.blocks[0].attn.v.seen, t)
    assert small.blocks[0].attn.v.seen is None


def test_state_dict_round_trip(random_dit, small, batch) -> None:
    other = random_dit(small.config, seed=9)
    inputs = batch(small.config)
    assert not torch.equal(other(*inputs), small(*inputs))
    other.load_state_dict(small.state_dict(), strict=True)
    torch.testing.assert_close(other(*inputs), small(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_floating_point_types(small, batch, dtype: torch.dtype) -> None:
    x, t, y = batch(small.config)
    expected = small(x, t, y)
    result = small.to(dtype)(x.to(dtype), t, y)
    assert result.dtype == dtype
    assert (result.float() - expected).norm() / expected.norm() < (0.1 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"num_heads": 5}, "num_heads 5"), ({"hidden_size": 6, "num_heads": 3}, "found 6"), ({"input_size": 9}, "9")],
)
def test_impossible_configurations_are_refused(changes: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        DiTConfig(**changes)
