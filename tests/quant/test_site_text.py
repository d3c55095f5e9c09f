"""What sites hold, in words: from the configuration of a checkpoint alone."""

import subprocess
import sys

import torch

from qdit.core.affine import Granularity
from qdit.models.roles import linear_of, select
from qdit.quant.activation import DynamicActivation, StaticActivation
from qdit.quant.apply import round_weights
from qdit.quant.folding import divide_input
from qdit.quant.grid_activations import MxActivation
from qdit.quant.grid_weights import mx_weight
from qdit.quant.ranges import minmax
from qdit.quant.site_text import integer_kernel, integer_text, sites_text
from qdit.quant.sites import quantize_site, split_low_rank, transform_site
from qdit.quant.transforms import Hadamard
from qdit.quant.weight import quantize_weight
from tests.small_models import random_dit


def test_every_part_is_named_in_the_order_of_the_computation() -> None:
    model = random_dit()
    fc2, fc1, qkv, p = (select(model.sites(), roles=[role])[0] for role in ("fc2", "fc1", "qkv", "p"))
    divide_input(model, fc2, torch.ones(192) * 1.3)
    transform_site(model, fc2, Hadamard(192, size=16))
    split_low_rank(model, fc2, 3)
    quantize_site(
        model,
        fc2,
        weight=mx_weight(linear_of(model, fc2).weight, block_size=16),
        activation=MxActivation(block_size=16),
    )
    round_weights(model, [fc1], bits=4, group_sizes={fc1.name: 12})
    quantize_site(model, fc1, activation=DynamicActivation(bits=8, group_size=12))
    rounded = quantize_weight(linear_of(model, qkv).weight, bits=3, granularity=Granularity("tensor"), ranges=minmax)
    quantize_site(model, qkv, weight=rounded)
    quantize_site(model, p, activation=StaticActivation(bits=8, scale=torch.ones(1), zero_point=torch.zeros(1)))
    specs = {site.name: model.get_submodule(site.name).spec() for site in (fc2, fc1, qkv, p)}
    texts = dict(zip(specs, (sites_text({name: spec})[0] for name, spec in specs.items()), strict=True))
    assert texts[fc2.name] == (
        "1 site: input transform divide → hadamard (size 16, signs False)"
        " | input mx (bits 4, element e2m1, block_size 16) | weight mx (element e2m1, block_size 16), 4 bits"
        " | low-rank branch rank 3, 16-bit factors"
        f" | bytes beside the codes: weight {48 * 12}, transform {192 * 4}, low_rank {2 * 3 * (48 + 192)}"
    )
    assert "| weight 4-bit codes, a scale and a zero point per group of 12 inputs" in texts[fc1.name]
    assert texts[qkv.name].endswith("input in full precision | weight 3-bit codes, a scale and a zero point per tensor")
    assert texts[p.name] == "1 site: input static (bits 8, per group, count 1)"
    twice = sites_text({"a": specs[p.name], "b": specs[p.name], "c": specs[qkv.name]})
    assert [line.split(":")[0] for line in twice] == ["2 sites", "1 site"]


def test_integer_mode_names_the_kernel_or_the_reason() -> None:
    linear = {"kind": "linear", "shape": [8, 24], "weight_bits": 4, "groups": [8, 1]}
    dynamic = DynamicActivation(bits=8, group_size=12).spec()
    kernel = linear | {"activation": dynamic}
    assert integer_kernel(kernel) == "grouped_linear"
    rotated = kernel | {"transform": [{"kind": "divide"}, {"kind": "hadamard", "size": 8}], "low_rank": {"rank": 3}}
    assert integer_kernel(rotated) == "grouped_linear with transform and low-rank branch inside"
    other = kernel | {"transform": [{"kind": "orthogonal"}], "low_rank": {"rank": 3}}
    assert integer_kernel(other) == (
        "grouped_linear with low-rank branch inside; the transform before it in torch (no kernel for orthogonal)"
    )
    assert integer_kernel(kernel | {"weight": {"kind": "mx"}}) == "Unsupported (weight kind mx)"
    assert "full precision" in integer_kernel(kernel | {"weight_bits": 16})
    for wrong in (dynamic | {"sharing": "sample"}, dynamic | {"include_zero": False}, {"kind": "own", "bits": 3}):
        assert integer_kernel(linear | {"activation": wrong}).startswith("Unsupported (input quantizer ")
    assert integer_kernel({"kind": "operand", "activation": dynamic}).startswith("Unsupported")
    assert integer_text({"a": kernel, "b": kernel, "c": {"kind": "modulate"}}) == [
        "integer mode, 2 sites: grouped_linear",
        "integer mode, 1 site: floating point",
    ]


def test_a_text_of_a_stranger_stays_one_line() -> None:
    spec = {"kind": "operand", "activation": {"kind": "x\x1b[31m\n", "note": "a\nb"}}
    (line,) = sites_text({"site": spec})
    assert "\n" not in line and "\x1b" not in line


def test_no_torch_is_loaded() -> None:
    code = "import sys, qdit.quant.site_text, qdit.quant.size; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
