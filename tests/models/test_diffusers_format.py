"""Conversion to and from diffusers: the same function in both directions, and what is refused."""

import json

import pytest
import torch

from qdit.core.errors import CheckpointError, Unsupported
from qdit.core.files import load_tensors, save_tensors
from qdit.models.config import DiTConfig
from qdit.models.diffusers_format import from_diffusers, key_map, to_diffusers, use_original_frequencies
from qdit.models.loading import load_model, write_manifest
from qdit.models.roles import replace
from tests.lazy import LazyModule

diffusers = LazyModule("diffusers")

CONFIGS = [
    DiTConfig(input_size=8, in_channels=4, hidden_size=48, depth=3, num_heads=4, num_classes=10),
    DiTConfig(input_size=8, in_channels=1, hidden_size=24, depth=2, num_heads=2, num_classes=10),
    DiTConfig(input_size=12, patch_size=4, in_channels=3, hidden_size=32, depth=1, num_heads=1, num_classes=1000),
]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def foreign(config: DiTConfig, *, norm_eps: float = 1e-6) -> torch.nn.Module:
    """A diffusers module with random weights of its own, copies of the embedders made equal, in eval mode."""
    module = diffusers.DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.hidden_size // config.num_heads,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.depth,
        sample_size=config.input_size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=config.num_classes,
        norm_eps=norm_eps,
    )
    draw = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=draw)
    first = module.transformer_blocks[0].norm1.emb.state_dict()
    for block in module.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("config", CONFIGS)
def test_to_diffusers_computes_the_same(random_dit, batch, config: DiTConfig) -> None:
    model = random_dit(config)
    x, t, y = batch(config)
    module = to_diffusers(model)
    assert not module.training
    with torch.no_grad():
        assert relative(module(x, t, y).sample, model(x, t, y)) < 1e-5


@pytest.mark.parametrize("config", CONFIGS)
def test_from_diffusers_computes_the_same(batch, config: DiTConfig) -> None:
    module = foreign(config)
    use_original_frequencies(module)
    x, t, y = batch(config)
    model = from_diffusers(module)
    assert model.config == config and not model.training
    with torch.no_grad():
        assert relative(model(x, t, y), module(x, t, y).sample) < 1e-5
    stated = from_diffusers(module.state_dict(), json.loads(module.to_json_string()))
    assert torch.equal(stated.state_dict()["blocks.0.attn.qkv.weight"], model.blocks[0].attn.qkv.weight)


def test_there_and_back_is_the_identity(small) -> None:
    back = from_diffusers(to_diffusers(small)).state_dict()
    assert list(back) == list(small.state_dict())
    for name, tensor in small.state_dict().items():
        assert torch.equal(back[name], tensor), name


def test_frequencies_are_the_difference_that_matters(batch) -> None:
    """As published (127, eps 1e-5) diffusers computes something else; the conversion follows the original."""
    config = CONFIGS[0]
    module = foreign(config, norm_eps=1e-5)
    x, t, y = batch(config)
    with torch.no_grad():
        ours, theirs = from_diffusers(module)(x, t, y), module(x, t, y).sample
        assert relative(theirs, ours) > 1e-2
        use_original_frequencies(module)
        assert relative(module(x, t, y).sample, ours) < 1e-3


def test_conversion_leaves_the_global_generator_alone(small) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    to_diffusers(small)
    assert torch.equal(torch.rand(3), expected)


def test_folder_is_read_by_us_and_by_diffusers(tmp_path, mini, batch) -> None:
    to_diffusers(mini, tmp_path / "model")
    inputs = batch(mini.config)
    expected = mini(*inputs)
    torch.testing.assert_close(load_model(tmp_path / "model")(*inputs), expected, rtol=0, atol=0)
    module = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "model")
    use_original_frequencies(module)
    assert module.config.norm_eps == 1e-6
    with torch.no_grad():
        assert relative(module(*inputs).sample, expected) < 1e-5


def test_folder_saved_by_diffusers_in_one_file_and_in_shards(tmp_path, mini, batch) -> None:
    inputs = batch(mini.config)
    module = to_diffusers(mini)
    module.save_pretrained(tmp_path / "one", safe_serialization=True)
    module.save_pretrained(tmp_path / "many", safe_serialization=True, max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    for folder in ("one", "many"):
        torch.testing.assert_close(load_model(tmp_path / folder)(*inputs), mini(*inputs), rtol=0, atol=0)


def test_published_class_name_and_half_precision(tmp_path, mini) -> None:
    folder = tmp_path / "model"
    to_diffusers(mini, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "Transformer2DModel", "norm_eps": 1e-5}))
    tensors, _ = load_tensors(folder / "diffusion_pytorch_model.safetensors")
    save_tensors(folder / "diffusion_pytorch_model.safetensors", {n: t.half() for n, t in tensors.items()})
    model = load_model(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.blocks[1].mlp.fc1.weight, mini.blocks[1].mlp.fc1.weight, rtol=1e-3, atol=1e-4)


def change(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "UNet2DModel"}, ["UNet2DModel", "DiTTransformer2DModel"]),
        ({"norm_type": "ada_norm_single"}, ["ada_norm_single", "ada_norm_zero"]),
        ({"activation_fn": "geglu"}, ["geglu", "gelu-approximate"]),
        ({"attention_bias": False}, ["attention_bias"]),
        ({"out_channels": 1}, ["out_channels is 1", "2", "learned variance"]),
        ({"out_channels": None}, ["out_channels is None"]),
        ({"num_layers": 0}, ["num_layers is 0"]),
        ({"num_layers": 10**12}, ["num_layers is 1000000000000", "65536"]),
        ({"sample_size": "8"}, ["sample_size is '8'"]),
        ({"num_layers": 3}, ["missing", "transformer_blocks.2"]),
        ({"num_layers": 1}, ["not expected", "transformer_blocks.1"]),
        ({"attention_head_dim": 8}, ["shape", "(24,", "(16,"]),
    ],
)
def test_folders_of_other_models_are_refused(tmp_path, mini, one_line_error, changes, words) -> None:
    to_diffusers(mini, tmp_path)
    change(tmp_path, **changes)
    one_line_error(CheckpointError, lambda: load_model(tmp_path), *words)


def test_unequal_copies_of_an_embedder_are_refused(tmp_path, mini, one_line_error) -> None:
    module = to_diffusers(mini)
    module.transformer_blocks[1].norm1.emb.timestep_embedder.linear_2.bias.data[3] += 1e-6
    one_line_error(
        CheckpointError,
        lambda: from_diffusers(module),
        "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias",
        "block 0",
    )


def test_pickled_or_missing_weights_in_a_folder_are_refused(tmp_path, mini, one_line_error) -> None:
    to_diffusers(mini, tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")
    one_line_error(CheckpointError, lambda: load_model(tmp_path), "pickled", "safe_serialization=True")
    (tmp_path / "config.json").unlink()
    one_line_error(CheckpointError, lambda: load_model(tmp_path), "has no config.json", "diffusion_pytorch_model.bin")


def test_shard_index_cannot_lead_out_of_the_folder(tmp_path, mini, one_line_error) -> None:
    to_diffusers(mini, tmp_path / "model")
    index = tmp_path / "model" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out_1.bias": "../elsewhere.safetensors"}}))
    one_line_error(CheckpointError, lambda: load_model(tmp_path / "model"), "weight_map", "this folder")
    index.write_text(json.dumps({"weight_map": {"proj_out_1.bias": "gone.safetensors"}}))
    one_line_error(CheckpointError, lambda: load_model(tmp_path / "model"), "gone.safetensors", "no such file")


def test_manifest_of_a_folder_is_checked(tmp_path, mini, one_line_error) -> None:
    to_diffusers(mini, tmp_path)
    write_manifest(tmp_path)
    load_model(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    one_line_error(CheckpointError, lambda: load_model(tmp_path), "sha256")


def test_what_diffusers_cannot_hold_is_unsupported(random_dit, mini, one_line_error) -> None:
    fields = mini.config.to_dict()
    one_line_error(Unsupported, lambda: to_diffusers(random_dit(DiTConfig(**fields | {"mlp_ratio": 2}))), "mlp_ratio 2")
    one_line_error(
        Unsupported, lambda: to_diffusers(random_dit(DiTConfig(**fields | {"frequency_size": 64}))), "64", "256"
    )
    replace(mini, "blocks.0.attn.q", torch.nn.Dropout())
    one_line_error(Unsupported, lambda: to_diffusers(mini), "blocks.0.attn.q", "Dropout")


def test_positions_that_are_not_the_fixed_table_are_unsupported(mini, one_line_error) -> None:
    mini.pos_embed[0, 1, 2] += 0.1
    one_line_error(Unsupported, lambda: to_diffusers(mini), "pos_embed")


def test_key_map_covers_the_real_model() -> None:
    """XL: exactly diffusers' tensors, and every official tensor but the positions is reached."""
    with torch.device("meta"):
        module = diffusers.DiTTransformer2DModel()
    pairs = key_map(28)
    assert set(pairs) == set(module.state_dict())
    reached = {name for name, _ in pairs.values()}
    assert len(reached) == 28 * 10 + 11


@pytest.mark.parametrize("name", ["attn1.to_q.weight", "attn1.to_v.bias", "ff.net.2.weight"])
def test_bad_tensors_are_named_as_diffusers_names_them(mini, one_line_error, name: str) -> None:
    module = to_diffusers(mini)
    config, name = json.loads(module.to_json_string()), f"transformer_blocks.1.{name}"
    state = module.state_dict()
    good = state[name]

    def give(value: object) -> object:
        return from_diffusers(state | {name: value}, config)

    one_line_error(CheckpointError, lambda: give(good.int()), name, "int32")
    one_line_error(CheckpointError, lambda: give(good * torch.nan), name, "NaN")
    one_line_error(CheckpointError, lambda: give([1.0]), name, "list")
    one_line_error(CheckpointError, lambda: from_diffusers({n: t for n, t in state.items() if n != name}, config), name)
    if "to_" in name:
        one_line_error(CheckpointError, lambda: give(torch.tensor(1.0)), name, "shape ()", f"{tuple(good.shape)}")


def test_copies_of_another_dtype_are_not_equal(mini, one_line_error) -> None:
    module = to_diffusers(mini)
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    state = module.state_dict()
    config = json.loads(module.to_json_string())
    one_line_error(CheckpointError, lambda: from_diffusers(state | {name: state[name].double()}, config), name)


def test_both_models_own_their_weights(mini, batch) -> None:
    inputs = batch(mini.config)
    module = to_diffusers(mini)
    back = from_diffusers(module)
    before = mini(*inputs)
    for parameter in module.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(mini(*inputs), before, rtol=0, atol=0)
    torch.testing.assert_close(back(*inputs), before, rtol=0, atol=0)
