"""`qdit bench block`: enlarged sites keep their form, rows with equal sites share a time, refusals have a reason."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from qdit.bench.block import QUICK, Row, measure, text
from qdit.bench.block_forms import enlarged_activation, enlarged_site
from qdit.core.affine import Granularity
from qdit.core.errors import ConfigError, Unsupported
from qdit.quant.activation import Activation, DynamicActivation
from qdit.quant.grid_weights import float_weight, mx_weight, nvfp4_weight
from qdit.quant.integer import IntegerLinear
from qdit.quant.low_rank import low_rank
from qdit.quant.ranges import zero_minmax
from qdit.quant.sites import QuantizedLinear, stored_weight
from qdit.quant.transforms import Chain, Divide, Hadamard, Orthogonal, Shift, hadamard_matrix, random_signs
from qdit.quant.weight import QuantizedWeight, quantize_weight
from qdit.report.data.block_times import BlockTimes
from qdit.workflow.block_rows import block_rows
from qdit.workflow.profile import load_profile

TIMES, INPUTS, OUTPUTS = 2, 32, 48


def site(*, group_size: int | None = None, full: bool = False, weight: Any = None) -> QuantizedLinear:
    """A site with a uniform weight; `full`: with every kind of transform and a branch, too."""
    torch.manual_seed(0)
    values, shared = (
        torch.randn(OUTPUTS, INPUTS),
        Granularity("group", group_size) if group_size else Granularity("channel"),
    )
    chain = Chain(
        [
            Divide(torch.rand(INPUTS) + 1),
            Shift(torch.randn(INPUTS)),
            Hadamard(INPUTS, size=8, signs=random_signs(INPUTS, torch.Generator().manual_seed(0))),
            Orthogonal(INPUTS, hadamard_matrix(4)),
        ]
    )
    return QuantizedLinear(
        weight=weight(values) if weight else quantize_weight(values, bits=4, granularity=shared, ranges=zero_minmax),
        bias=torch.randn(OUTPUTS),
        activation=DynamicActivation(bits=4, group_size=group_size),
        transform=chain if full else None,
        low_rank=low_rank(values, 3) if full else None,
    )


@pytest.mark.parametrize("group_size", [None, 8])
def test_a_larger_site_has_the_form_of_the_small_one(group_size: int | None) -> None:
    small = site(group_size=group_size, full=True)
    large = enlarged_site(small, TIMES)
    assert isinstance(large, QuantizedLinear)
    before, after = small.spec(), large.spec()
    assert after["shape"] == [TIMES * n for n in before["shape"]] and after["weight_bits"] == 4
    assert after["groups"] == [TIMES * OUTPUTS, before["groups"][1]]
    assert after["activation"]["group_size"] == (None if group_size is None else TIMES * group_size)
    assert after["low_rank"] == {"rank": TIMES * 3}
    assert [step["kind"] for step in after["transform"]] == ["divide", "shift", "hadamard", "orthogonal"]
    assert after["transform"][2] == {"kind": "hadamard", "size": 16, "signs": True}
    x = torch.randn(5, TIMES * INPUTS)
    simulated, integer = large(x), IntegerLinear(large)(x)
    assert (simulated - integer).norm() / simulated.norm() < 1e-3


def test_a_larger_weight_is_the_small_one_repeated_inside_its_groups() -> None:
    small = site(group_size=8)
    large = enlarged_site(small, TIMES)
    assert isinstance(large, QuantizedLinear)
    old, new = stored_weight(small), stored_weight(large)
    assert isinstance(old, QuantizedWeight) and isinstance(new, QuantizedWeight)
    first = new.codes[:OUTPUTS].view(OUTPUTS, 4, TIMES, 8)
    assert all(torch.equal(first[:, :, n], old.codes.view(OUTPUTS, 4, 8)) for n in range(TIMES))
    assert torch.equal(new.zero_point, old.zero_point.repeat(TIMES, 1))


def test_blocks_of_formats_keep_their_size() -> None:
    for make in (mx_weight, nvfp4_weight):
        small = site(weight=make)
        large = enlarged_site(small, TIMES)
        old, new = small.spec()["weight"], large.spec()["weight"]
        assert new == old and large.spec()["shape"] == [TIMES * OUTPUTS, TIMES * INPUTS]


class OwnActivation(Activation):
    kind = "own"
    bits = 4


def test_what_has_no_larger_form_says_so() -> None:
    with pytest.raises(Unsupported, match="no full-size form of input quantizer kind own"):
        enlarged_activation(OwnActivation(), TIMES)
    with pytest.raises(Unsupported, match="no full-size form of weight kind float"):
        enlarged_site(site(weight=float_weight), TIMES)


def test_rows_with_equal_sites_share_a_time_and_others_say_why_they_have_none() -> None:
    dynamic = {"activation": "dynamic"}
    rows = [
        Row("a", (4, 4), "rtn", dynamic),
        Row("b", (4, 4), "mxfp4", {"block_size": 16}),
        Row("c", (4, 4), "rtn", dynamic | {"group_size": 16}),
        Row("d", (4, 4), "rtn", dynamic),
        Row("e", (4, 4), "q-dit", {}, why="found for the small model"),
        Row("f", (5, 4), "mxfp4", {}),
    ]
    said: list[str] = []
    kept: list[dict[str, Any]] = []
    content = measure(
        "a command", rows, table="t", scale=replace(QUICK, threads=(1, 2)), say=said.append, keep=kept.append
    )
    assert [row["form"] for row in content["rows"]] == [0, 1, 2, 0, None, None]
    assert content["rows"][4]["why"] == "found for the small model" and "MX elements" in content["rows"][5]["why"]
    assert [form["why"] for form in content["measured"]] == [
        None,
        "weight kind mx: no kernel multiplies MX blocks",
        None,
    ]
    assert set(content["measured"][0]["seconds"]) == {"1", "2"} and content["measured"][1]["seconds"] == {}
    assert [len(record["measured"]) for record in kept] == [1, 2, 3] and len(said) == 3
    assert BlockTimes(content).bfloat16_over_float32("2") > 0
    assert "no kernel multiplies MX blocks" in text(content) and "found for the small model" in text(content)


def test_the_rows_of_a_table_are_its_labels_at_its_bits() -> None:
    profile = load_profile("mini")
    rows = block_rows(profile, "w4a4")
    names = [(row.label, row.name) for row in rows]
    assert len(names) == len(set(names)) and {name for _, name in names} == {"w4a4", "w4a8"}
    assert "fp" not in {label for label, _ in names}
    assert {row.label for row in rows if row.why} == {"q-dit"}
    assert {row.name for row in block_rows(profile, "w4a4", ["w4a4"])} == {"w4a4"}
    with pytest.raises(ConfigError, match="--bits w4a6: table 'w4a4' has rows at w4a4, w4a8"):
        block_rows(profile, "w4a4", ["w4a6"])
    with pytest.raises(ConfigError, match="table 'w4a5' is not in profile"):
        block_rows(profile, "w4a5")
    with pytest.raises(ConfigError, match="not a miniature"):
        block_rows(load_profile("paper"), "table2")
