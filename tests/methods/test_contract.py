"""What a class says of itself: the kinds of calibration data it needs under its options."""

import re
from typing import get_type_hints

import pytest

from qdit.cli.steps import calibrate
from qdit.core.errors import ConfigError
from qdit.methods.quantize import quantize_model
from qdit.methods.registry import find_method
from qdit.sampling.calibration import KINDS
from tests.small_models import calibration_set, inputs, random_dit


@pytest.mark.parametrize(
    ("method", "options"),
    [("rtn", {"activation": "dynamic"}), ("q-dit", {"rounding": "nearest", "group_size": 8})],
)
def test_calibration_data_that_are_not_looked_at_are_not_asked_for(method: str, options: dict[str, object]) -> None:
    model, data = random_dit(), {"trajectory": calibration_set("trajectory")}
    without = quantize_model(model, method, weight_bits=4, activation_bits=8, options=options).model
    beside = quantize_model(model, method, weight_bits=4, activation_bits=8, options=options, calibration=data).model
    assert without(*inputs()).equal(beside(*inputs()))
    with pytest.raises(ConfigError, match=f"{method}: needs calibration data of kind trajectory; run `qdit calibrate`"):
        quantize_model(model, method, weight_bits=4, activation_bits=8, options={})


@pytest.mark.parametrize(("options", "kinds"), [({}, ("trajectory",)), ({"activation": "dynamic"}, ())])
def test_kinds_follow_the_options(options: dict[str, str], kinds: tuple[str, ...]) -> None:
    method = find_method("rtn")
    assert method.calibration_for(method.Options(**options)) == kinds


def test_the_help_names_every_kind_of_calibration_data() -> None:
    text = get_type_hints(calibrate, include_extras=True)["kind"].__metadata__[0].help
    assert set(re.findall(r"[\w-]+", text)) >= set(KINDS)
