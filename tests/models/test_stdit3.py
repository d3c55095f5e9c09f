"""STDiT3 against the published counts, the official names, and a second implementation in float64."""

import copy
import os
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qdit.core.errors import ConfigError
from qdit.models.config import STDiT3Config
from qdit.models.roles import CORE_ROLES, replace, select
from qdit.models.stdit3 import STDIT3_XL_2, STDiT3, spatial_positions
from qdit.models.stdit3_attention import RMSNorm, Rotation
from tests.models import stdit3_reference as reference
from tests.preloaded import python
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_inputs


@pytest.fixture(scope="module")
def full_size() -> STDiT3:
    with torch.device("meta"):
        return STDiT3(STDIT3_XL_2)


@pytest.fixture
def tiny() -> STDiT3:
    return random_stdit3()


EMPTY = """
import sys
from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.network import empty_network
for config in (DiTConfig(depth=1), STDiT3Config(depth=1, hidden_size=96, num_heads=2)):
    assert all(parameter.is_meta for parameter in empty_network(config).parameters())
sys.exit("torch._dynamo was imported" if "torch._dynamo" in sys.modules else 0)
"""


def test_an_empty_model_imports_no_compiler(repository: Path) -> None:
    """Every command makes an empty model first; the compiler of torch takes two seconds to import."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = python(["-c", EMPTY], repository, environment=environment)
    assert done.returncode == 0, done.stderr


def test_full_size_has_the_published_number_of_parameters(full_size: STDiT3) -> None:
    parameters = sum(p.numel() for p in full_size.parameters())
    state = full_size.state_dict()
    assert round(parameters / 1e6, 2) == 1207.64
    assert round(sum(t.numel() for t in state.values()) / 1e6, 2) == 1208.87
    assert len(state) == 973
    linears = [m for m in full_size.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 400
    assert round(sum(m.weight.numel() for m in linears) / 1e6, 2) == 1206.37
    assert len(select(full_size.sites(), roles=CORE_ROLES)) == 7 * 56


def test_full_size_has_the_official_names_and_shapes(full_size: STDiT3) -> None:
    width = 1152
    linears = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "fps_embedder.mlp.0": (width, 256),
        "fps_embedder.mlp.2": (width, width),
        "t_block.1": (6 * width, width),
        "y_embedder.y_proj.fc1": (width, 4096),
        "y_embedder.y_proj.fc2": (width, width),
        "final_layer.linear": (32, width),
    }
    expected: dict[str, tuple[int, ...]] = {
        "rope.freqs": (36,),
        "x_embedder.proj.weight": (width, 4, 1, 2, 2),
        "x_embedder.proj.bias": (width,),
        "y_embedder.y_embedding": (300, 4096),
        "final_layer.scale_shift_table": (2, width),
    }
    for block in (f"{kind}_blocks.{index}" for kind in ("spatial", "temporal") for index in range(28)):
        expected[f"{block}.scale_shift_table"] = (6, width)
        expected[f"{block}.attn.q_norm.weight"] = expected[f"{block}.attn.k_norm.weight"] = (72,)
        linears[f"{block}.attn.qkv"] = (3 * width, width)
        linears[f"{block}.cross_attn.kv_linear"] = (2 * width, width)
        linears[f"{block}.mlp.fc1"], linears[f"{block}.mlp.fc2"] = (4 * width, width), (width, 4 * width)
        for name in ("attn.proj", "cross_attn.q_linear", "cross_attn.proj"):
            linears[f"{block}.{name}"] = (width, width)
    for name, shape in linears.items():
        expected[f"{name}.weight"], expected[f"{name}.bias"] = shape, shape[:1]
    assert {name: tuple(t.shape) for name, t in full_size.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("changes", "size"),
    [({}, (3, 4, 6)), ({}, (1, 5, 3)), ({"frame_patch": 2, "patch_size": 3, "num_heads": 3}, (3, 6, 4))],
)
def test_forward_equals_a_second_implementation_in_float64(changes: dict, size: tuple[int, int, int]) -> None:
    config = changed(TINY_VIDEO, **changes)
    model = random_stdit3(config)
    x, timestep, text, mask = video_inputs(config, size=size)
    fps = torch.tensor([24.0, 8.0, 15.0])
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    ours = model(x, timestep, text, mask, fps=fps, height=17, width=12.5).double().numpy()
    assert ours.shape == (3, 6, *size)
    for row in range(3):
        valid = text[row][mask[row]].double().numpy()
        expected = reference.forward(
            config,
            state,
            x[row].double().numpy(),
            float(timestep[row]),
            valid,
            fps=float(fps[row]),
            height=17,
            width=12.5,
        )
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(ours[row], expected, atol=2e-5 * np.abs(expected).max())


def test_defaults_of_size_and_fps_come_from_the_configuration(tiny: STDiT3) -> None:
    x, *rest = video_inputs(size=(2, 4, 6))
    expected = tiny(x, *rest, fps=torch.full((3,), 24.0), height=torch.full((3,), 8.0), width=torch.full((3,), 12.0))
    torch.testing.assert_close(tiny(x, *rest), expected, rtol=0, atol=0)
    assert (tiny(x, *rest, fps=8) - expected).abs().max() > 1e-2
    assert (tiny(x, *rest, height=32) - expected).abs().max() > 1e-2


def test_rows_of_a_batch_do_not_mix(tiny: STDiT3) -> None:
    inputs = video_inputs(count=4)
    alone = torch.cat([tiny(*(part[row : row + 1] for part in inputs)) for row in range(4)])
    torch.testing.assert_close(tiny(*inputs), alone, rtol=1e-4, atol=1e-5)


def test_padding_of_the_text_does_not_matter_whatever_it_holds(tiny: STDiT3) -> None:
    x, timestep, text, mask = video_inputs()
    expected = tiny(x, timestep, text, mask)
    other = text.masked_fill(~mask[:, :, None], float("nan"))
    torch.testing.assert_close(tiny(x, timestep, other, mask), expected, rtol=0, atol=0)
    longer = torch.cat([text, 9 * torch.ones(3, 2, text.shape[2])], dim=1)
    wider = torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(tiny(x, timestep, longer, wider), expected, rtol=1e-4, atol=1e-5)
    assert (tiny(x, timestep, text) - expected).abs().max() > 1e-2


def test_no_text_uses_as_many_tokens_as_the_prompt_has(tiny: STDiT3) -> None:
    """The branch without text gets the prompt's own mask: the first L rows of the learned tokens."""
    x, timestep, text, mask = video_inputs()
    null = tiny.null_text(3, text.shape[1])
    assert null.shape == text.shape
    whole = tiny(x, timestep, null, mask)
    for row in range(3):
        length = int(mask[row].sum())
        own = tiny.y_embedder.y_embedding[None, :length]
        alone = tiny(x[row : row + 1], timestep[row : row + 1], own)
        torch.testing.assert_close(whole[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_rms_norm_equals_float64() -> None:
    x = 30 * torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    norm = RMSNorm(12)
    nn.init.uniform_(norm.weight, 0.5, 2)
    expected = reference.rms_norm(x.double().numpy(), norm.weight.detach().double().numpy())
    np.testing.assert_allclose(norm(x).detach().double().numpy(), expected, rtol=1e-5)
    large = norm.half()(300 * torch.ones(1, 12, dtype=torch.float16))
    torch.testing.assert_close(large, norm.weight.detach()[None], rtol=1e-3, atol=0)


def test_rotation_equals_complex_numbers_and_depends_on_distance_only() -> None:
    x = torch.randn(2, 3, 16, 72, generator=torch.Generator().manual_seed(0))
    rotation = Rotation(72)
    assert rotation.freqs.shape == (36,)
    for i, j in np.ndindex(2, 3):
        expected = reference.rotate(x[i, j].double().numpy())
        np.testing.assert_allclose(rotation(x)[i, j].double().numpy(), expected, atol=1e-5)
    q, k = (rotation(x[0, i, :1].expand(16, 72)).double() for i in (0, 1))
    products = q @ k.T
    torch.testing.assert_close(products[1:, 1:], products[:-1, :-1], rtol=1e-4, atol=1e-4)


def test_spatial_positions_equal_float64_and_encode_the_column_first() -> None:
    table = spatial_positions(1152, 15, 27, (240 * 426) ** 0.5 / 512).double().numpy()
    for row, column in [(0, 0), (3, 1), (14, 26)]:
        expected = reference.position(1152, row, column, 15, 27, (240 * 426) ** 0.5 / 512)
        np.testing.assert_allclose(table[row * 27 + column], expected, atol=1e-6)
    assert (table[:27, 576:] == table[0, 576:]).all()


def test_frames_are_numbered_only_where_the_configuration_says_so() -> None:
    """Without it, and with all frames alike, temporal attention cannot tell the frames apart."""
    x, *rest = video_inputs(size=(1, 4, 4))
    still = x.expand(-1, -1, 4, -1, -1)
    plain = random_stdit3()(still, *rest)
    torch.testing.assert_close(plain, plain[:, :, :1].expand_as(plain), rtol=1e-4, atol=1e-5)
    numbered = random_stdit3(changed(TINY_VIDEO, frame_positions=True))
    assert numbered.state_dict().keys() == random_stdit3().state_dict().keys()
    output = numbered(still, *rest)
    assert (output - output[:, :, :1]).abs().max() > 0.1


class Passing(nn.Module):
    """An identity that is not nn.Identity: makes an operand site active without changing it."""

    def __init__(self) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shape = tuple(x.shape)
        return x.clone()


@pytest.mark.parametrize("operands", ["q", "k", "p", "v", "qkpv"])
def test_written_out_attention_equals_the_fused_one(tiny: STDiT3, operands: str) -> None:
    inputs = video_inputs()
    fused = tiny(*inputs)
    for site in select(tiny.sites(), roles=tuple(operands)):
        replace(tiny, site, Passing())
    torch.testing.assert_close(tiny(*inputs), fused, rtol=1e-4, atol=2e-5)


def test_operands_keep_the_clip_as_their_first_dimension(tiny: STDiT3) -> None:
    for operand in "qp":
        for kind in ("spatial", "temporal"):
            replace(tiny, f"{kind}_blocks.1.attn.{operand}", Passing())
    tiny(*video_inputs(size=(5, 4, 6)))
    assert tiny.spatial_blocks[1].attn.q.shape == (3, 5, 2, 6, 12)
    assert tiny.spatial_blocks[1].attn.p.shape == (3, 5, 2, 6, 6)
    assert tiny.temporal_blocks[1].attn.q.shape == (3, 6, 2, 5, 12)
    assert tiny.temporal_blocks[1].attn.p.shape == (3, 6, 2, 5, 5)


def test_a_deep_copy_is_independent_and_equal(tiny: STDiT3) -> None:
    inputs = video_inputs()
    before = tiny(*inputs)
    twin = copy.deepcopy(tiny)
    assert twin.step_context is not tiny.step_context
    assert twin.temporal_blocks[0].attn.shared[0] is twin.rope
    torch.testing.assert_close(twin(*inputs), before, rtol=0, atol=0)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    torch.testing.assert_close(tiny(*inputs), before, rtol=0, atol=0)


def test_the_stored_frequencies_are_the_ones_that_are_used(tiny: STDiT3) -> None:
    inputs = video_inputs()
    before = tiny(*inputs)
    state = {**tiny.state_dict(), "rope.freqs": 2 * tiny.rope.freqs}
    tiny.load_state_dict(state, assign=True)
    assert (tiny(*inputs) - before).abs().max() > 1e-3


def test_forward_publishes_the_timestep(tiny: STDiT3) -> None:
    inputs = video_inputs()
    tiny(*inputs)
    assert tiny.step_context.timestep is inputs[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_floating_point_types(tiny: STDiT3, dtype: torch.dtype) -> None:
    x, timestep, text, mask = video_inputs()
    expected = tiny(x, timestep, text, mask)
    result = tiny.to(dtype)(x.to(dtype), timestep, text, mask)
    assert result.dtype == dtype
    assert (result.float() - expected).norm() / expected.norm() < (0.1 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize(
    ("changes", "word"), [({"num_heads": 5}, "num_heads 5"), ({"hidden_size": 6, "num_heads": 3}, "found 6")]
)
def test_impossible_configurations_are_refused(changes: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        STDiT3Config(**changes)
