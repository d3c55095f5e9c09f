"""SmoothQuant as shipped: its factors, where they go, and the smaller one of the tutorial beside it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.methods.quantize import quantize_model
from qdit.methods.registry import find_method
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.apply import collect_inputs
from qdit.quant.smoothing import largest, smoothing_factor
from qdit.quant.transforms import Divide
from tests.small_models import calibration_set, random_dit

DATA = {"uniform": calibration_set("uniform", samples=16)}


def quantized(bits=(8, 8), **options):
    return quantize_model(
        random_dit(), "smoothquant", weight_bits=bits[0], activation_bits=bits[1], calibration=DATA, options=options
    ).model


def test_the_input_of_every_layer_is_divided_by_its_factor():
    """Folded or online, the quantizer sees x / λ with λ from the model in full precision."""
    plain, model = random_dit(), quantized((16, 8))
    batches = list(DATA["uniform"].batches(32))
    sites = select(plain.sites(), roles=CORE_ROLES)
    first = {site.name: x for site, x in collect_inputs(plain, sites, batches) if site.block == 0}
    after = {site.name: x for site, x in collect_inputs(model, select(model.sites(), roles=CORE_ROLES), batches)}
    for site in sites:
        module = linear_of(model, site)
        assert (module.transform is not None) == (site.role == "fc2")
        if module.transform is not None:
            assert [type(step) for step in module.transform.steps()] == [Divide]
    site = sites[0]  # nothing before it is quantized
    factor = smoothing_factor(largest(first[site.name]), linear_of(plain, site).weight.abs().amax(dim=0), 0.5)
    torch.testing.assert_close(after[site.name], first[site.name] / factor, rtol=1e-4, atol=1e-5)


def test_online_false_leaves_fc2_alone_and_static_is_one_range():
    model = quantized(online=False, activation="static")
    for site in select(model.sites(), roles=CORE_ROLES):
        module = linear_of(model, site)
        assert module.transform is None and module.activation.kind == "static" and module.activation.scale.numel() == 1


def test_the_method_of_the_tutorial_does_the_same(repository: Path):
    """Its ranges are static and fc2 gets no factor. Its factors are those of the shipped one times a number."""
    text = (repository / "docs/add-a-method.md").read_text(encoding="utf-8")
    listing = r'^```python title="baselines/my_smoothquant.py"\n(.*?)^```$'
    (source,) = re.findall(listing, text, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "my_smoothquant"}
    exec(compile(source, "my_smoothquant.py", "exec", dont_inherit=True), names)
    method = names["MySmoothQuant"]()
    tutorial = method.quantize(
        random_dit(), weight_bits=16, activation_bits=8, scope="common", calibration=DATA, options=method.Options()
    ).model
    shipped, plain = quantized((16, 8), online=False, activation="static"), random_dit()
    for site in select(plain.sites(), roles=CORE_ROLES):
        weight = linear_of(plain, site).weight.detach()
        ours, theirs = (linear_of(model, site).weight.detach() / weight for model in (shipped, tutorial))
        ratio = ours / theirs
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=0)
        assert (float((ours - 1).abs().max()) > 0.1) == (site.role != "fc2")


def test_options_are_checked():
    for options, words in (({"alpha": 1.5}, "alpha"), ({"activation": "tensor"}, "activation")):
        with pytest.raises(ConfigError, match=words):
            quantized(**options)
    assert find_method("ditas").Options().turns == 10 and find_method("svdquant").Options().turns == 100
    for options, words in (({"turns": 0}, "turns"), ({"sharing": "tensor"}, "sharing"), ({"alpha": -0.1}, "alpha")):
        with pytest.raises(ConfigError, match=words):
            quantize_model(random_dit(), "ditas", weight_bits=4, activation_bits=8, calibration=DATA, options=options)
