"""Sizes: the paper's printed column, the sizes of released programs, and agreement with the model and with files."""

from pathlib import Path

import pytest
import torch

from qdit.core.errors import CheckpointError, ConfigError
from qdit.models.config import DiTConfig
from qdit.models.dit import DIT_XL_2_256, DIT_XL_2_512, DiT
from qdit.models.roles import CORE_ROLES
from qdit.quant.size import dit_shape, printed_mb, size_actual_mb, size_counted_mb, size_paper_mb, size_predicted_mb

MINI = DiTConfig(input_size=8, in_channels=1, hidden_size=144, depth=7, num_heads=6, num_classes=10)


@pytest.mark.parametrize("config", [DIT_XL_2_256, DIT_XL_2_512])
def test_printed_sizes_of_the_paper(config: DiTConfig) -> None:
    cases = [(16, None), (6, None), (4, None), (6, 128), (4, 128)]
    sizes = [printed_mb(size_paper_mb(config, weight_bits=bits, group_sizes=g)) for bits, g in cases]
    assert sizes == [1349, 508, 339, 520, 351]


def test_shape_is_the_models() -> None:
    assert dit_shape(DIT_XL_2_256).parameters == 674_834_720
    for config in (MINI, DIT_XL_2_256):
        with torch.device("meta"):
            model = DiT(config)
        shape = dit_shape(config)
        assert shape.parameters == sum(p.numel() for p in model.parameters())
        assert shape.positions == model.pos_embed.numel()
        roles = {site.name: site.role for site in model.sites()}
        for layer in shape.linears:
            weight = model.get_submodule(layer.name).weight
            assert (layer.outputs, layer.inputs) == (weight.shape[0], weight[0].numel())
            assert roles[layer.name] == layer.role
        assert len(shape.linears) == 5 * config.depth + 5


def test_allocations_count_the_groups_of_each_layer() -> None:
    layers = dit_shape(DIT_XL_2_256).with_roles(CORE_ROLES)
    assert len(layers) == 112
    uniform = {layer.name: 128 for layer in layers}
    assert size_paper_mb(DIT_XL_2_256, weight_bits=4, group_sizes=uniform) == size_paper_mb(
        DIT_XL_2_256, weight_bits=4, group_sizes=128
    )
    mixed = {**uniform, "blocks.0.attn.qkv": 32, "blocks.27.mlp.fc2": 288}
    more = 4 * (1152 * 3456 * (1 / 32 - 1 / 128) + 1152 * 4608 * (1 / 288 - 1 / 128)) / 1e6
    assert size_paper_mb(DIT_XL_2_256, weight_bits=4, group_sizes=mixed) == pytest.approx(
        size_paper_mb(DIT_XL_2_256, weight_bits=4, group_sizes=128) + more, rel=1e-12
    )


@pytest.mark.parametrize(("group_size", "w6", "w4"), [(32, 561.7, 393.1), (64, 533.8, 365.2), (192, 515.3, 346.6)])
def test_uniform_groups_differ_as_the_specification_says(group_size: int, w6: float, w4: float) -> None:
    """The specification prints these for another N (convention A), which shifts every row by the same amount."""
    for bits, expected in ((6, w6), (4, w4)):
        shift = (674_834_720 - 674_640_000) * bits / 8 / 1e6
        result = size_paper_mb(DIT_XL_2_256, weight_bits=bits, group_sizes=group_size)
        assert result - shift == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("roles", "group_size", "sizes"),
    [
        (CORE_ROLES, None, (905.5, 794.0, 682.6)),
        (CORE_ROLES, 128, (918.3, 806.8, 695.3)),
        ((*CORE_ROLES, "adaln"), 128, (702.3, 535.1, 367.9)),
    ],
)
def test_sizes_of_what_the_released_programs_quantize(roles, group_size: int | None, sizes: tuple[float, ...]) -> None:
    for bits, expected in zip((8, 6, 4), sizes, strict=True):
        result = size_predicted_mb(DIT_XL_2_256, weight_bits=bits, group_sizes=group_size, roles=roles)
        assert result == pytest.approx(expected, abs=0.06)


def test_w4_with_groups_is_four_bits_per_weight_and_four_bytes_per_group() -> None:
    layers = dit_shape(MINI).with_roles(CORE_ROLES)
    weights = sum(layer.inputs * layer.outputs for layer in layers)
    rest = size_predicted_mb(MINI, weight_bits=16, float_bits=32) * 1e6 - weights * 4
    quantized = size_predicted_mb(MINI, weight_bits=4, group_sizes=16, float_bits=32) * 1e6 - rest
    assert quantized == weights / 2 + weights / 16 * 4


def test_actual_size_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(2_500_000))
    (tmp_path / "config.json").write_text("{}")
    assert size_actual_mb(tmp_path) == 2.5
    with pytest.raises(CheckpointError, match="no such file"):
        size_actual_mb(tmp_path / "elsewhere")


def test_impossible_requests_are_refused() -> None:
    for bits in (0, 9, 32):
        with pytest.raises(ConfigError, match=f"weight_bits {bits}"):
            size_paper_mb(MINI, weight_bits=bits)
    with pytest.raises(ConfigError, match=r"blocks.0.attn.qkv: group_size 32 does not divide 144"):
        size_paper_mb(MINI, weight_bits=4, group_sizes=32)
    names = [layer.name for layer in dit_shape(MINI).with_roles(CORE_ROLES)]
    with pytest.raises(ConfigError, match="did you mean 'blocks.0.attn.qkv'"):
        size_paper_mb(MINI, weight_bits=4, group_sizes={"blocks.0.attn.qvk": 16})
    with pytest.raises(ConfigError, match=r"27 layers have no group size, the first is blocks.0.attn.proj"):
        size_paper_mb(MINI, weight_bits=4, group_sizes={names[0]: 16})


def test_a_checkpoint_with_uniform_weights_counts_as_before(tmp_path: Path) -> None:
    """U of the paper's formula is that of the allocation, or of all channels; parts of a site add their bytes."""
    layers = dit_shape(MINI).with_roles(CORE_ROLES)
    for size in (None, 16):
        sites = {
            layer.name: {
                "shape": [layer.outputs, layer.inputs],
                "groups": [layer.outputs, layer.inputs // (size or layer.inputs)],
            }
            for layer in layers
        }
        expected = size_paper_mb(MINI, weight_bits=4, group_sizes=size)
        assert size_counted_mb(MINI, weight_bits=4, sites=sites) == expected
        sites[layers[0].name]["extra_bytes"] = {"low_rank": 1000, "transform": 500}
        assert size_counted_mb(MINI, weight_bits=4, sites=sites) == expected + 0.0015
    plain = {"sites.of.full.precision": {"shape": [2, 2], "groups": None}}
    assert size_counted_mb(MINI, weight_bits=16, sites=plain) == size_paper_mb(MINI, weight_bits=16)
