"""Quantized modules in the place of convolutions, linears and operands of attention."""

import pytest
import torch
import torch.nn.functional as F

from qdit.core.errors import CheckpointError, Unsupported
from qdit.models.roles import StepContext, select
from qdit.quant.activation import StaticActivation
from qdit.quant.apply import round_weights
from qdit.quant.checkpoint import Quantized, load_checkpoint, save_checkpoint
from qdit.quant.site_building import build_site
from qdit.quant.sites import (
    QuantizedConv,
    QuantizedLinear,
    QuantizedOperand,
    activation_of,
    prepare_inference,
    quantize_site,
    stored_weight,
)
from qdit.quant.weight import QuantizedWeight
from tests.small_models import inputs, random_dit


def static(scale=0.05, zero_point=128, bits=8):
    return StaticActivation(bits=bits, scale=torch.tensor([scale]), zero_point=torch.tensor([zero_point]))


def site_of(model, role):
    return select(model.sites(), roles=(role,))[0]


def output(model):
    with torch.inference_mode():
        return model(*inputs())


def test_a_convolution_is_that_of_its_dequantized_weight_on_quantized_inputs():
    model = random_dit()
    site, x = site_of(model, "patch_embed"), inputs()[0]
    plain = model.get_submodule(site.name)
    round_weights(model, [site], bits=4)
    quantize_site(model, site, activation=static(0.2, 8, 4))
    module = model.get_submodule(site.name)
    assert isinstance(module, QuantizedConv) and module.weight_bits == 4
    weight = stored_weight(module).dequantize().view_as(plain.weight)
    assert torch.equal(module(x), F.conv2d(static(0.2, 8, 4)(x), weight, plain.bias, stride=2))
    assert (weight - plain.weight).abs().max() <= float(module.scale.max()) * 0.51
    assert (module(x) - plain(x)).abs().max() > 1e-3


def test_a_convolution_with_its_weight_as_it_was_equals_the_original():
    model = random_dit()
    site, x = site_of(model, "patch_embed"), inputs()[0]
    plain = model.get_submodule(site.name)
    quantize_site(model, site, activation=static())
    module = model.get_submodule(site.name)
    assert module.weight_bits == 16 and torch.equal(module(x), plain(static()(x)))


@pytest.mark.parametrize("role", ["q", "k", "p", "v"])
def test_an_operand_is_quantized_where_attention_uses_it(role):
    model = random_dit()
    attention, site = model.blocks[0].attn, site_of(model, role)
    quantizer = static(1 / 15, 0, 4) if role == "p" else static(0.3, 8, 4)
    quantize_site(model, site, activation=quantizer)
    assert isinstance(attention.get_submodule(role), QuantizedOperand)
    x = torch.randn(3, 16, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        q, k, v = attention.qkv(x).reshape(3, 16, 3, 2, 24).permute(2, 0, 3, 1, 4)
        parts = {"q": q, "k": k, "v": v}
        if role in parts:
            parts[role] = quantizer(parts[role])
        p = (parts["q"] @ parts["k"].mT / 24**0.5).softmax(-1)
        p = quantizer(p) if role == "p" else p
        expected = attention.proj((p @ parts["v"]).transpose(1, 2).reshape(3, 16, 48))
        torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)
    assert (output(model) - output(random_dit())).abs().max() > 1e-3


@pytest.mark.parametrize("role", ["patch_embed", "qkv", "p", "final", "adaln"])
def test_a_saved_and_loaded_site_gives_the_same_bits(role, tmp_path):
    model = random_dit()
    sites = select(model.sites(), roles=(role,))
    if role != "p":
        round_weights(model, sites, bits=3)
    for site in sites:
        quantize_site(model, site, activation=static())
    save_checkpoint(tmp_path, Quantized(model), {})
    loaded = load_checkpoint(tmp_path).model
    assert torch.equal(output(loaded), output(model))
    for site in sites:
        assert type(loaded.get_submodule(site.name)) is type(model.get_submodule(site.name))
        assert loaded.get_submodule(site.name).spec() == model.get_submodule(site.name).spec()


def test_weight_and_activation_are_put_in_one_after_the_other_and_keep_each_other():
    model, other = random_dit(), random_dit()
    for network, order in ((model, "wa"), (other, "aw")):
        for site in select(network.sites(), roles=("patch_embed", "fc1")):
            for what in order:
                if what == "w":
                    round_weights(network, [site], bits=4)
                else:
                    quantize_site(network, site, activation=static())
            assert activation_of(network, site).bits == 8 and network.get_submodule(site.name).weight_bits == 4
    assert torch.equal(output(model), output(other))
    site = site_of(model, "fc1")
    before = stored_weight(model.get_submodule(site.name))
    quantize_site(model, site, activation=static(0.1))
    after = stored_weight(model.get_submodule(site.name))
    assert isinstance(after, QuantizedWeight) and torch.equal(after.codes, before.codes)
    assert activation_of(model, site).scale == pytest.approx(0.1)


def test_what_has_no_weight_or_input_is_refused():
    model = random_dit()
    for role in ("label_embed", "modulate"):
        with pytest.raises(Unsupported, match=r"has no weight or input that can be quantized"):
            quantize_site(model, site_of(model, role), activation=static())
    assert activation_of(model, site_of(model, "q")) is None
    assert activation_of(model, site_of(model, "fc1")) is None


def test_specs_that_do_not_fit_their_tensors_are_refused():
    model = random_dit()
    site = site_of(model, "fc1")
    round_weights(model, [site], bits=4)
    module = model.get_submodule(site.name)
    spec, tensors = module.spec(), module.state_dict()
    assert torch.equal(build_site(spec, tensors, StepContext()).weight, module.weight)
    with pytest.raises(CheckpointError, match="allowed are linear, conv, operand"):
        build_site({**spec, "kind": "magic"}, tensors, StepContext())
    with pytest.raises(CheckpointError, match="the configuration says"):
        build_site({**spec, "groups": [1, 1]}, tensors, StepContext())
    with pytest.raises(CheckpointError, match="packed codes"):
        build_site({**spec, "shape": [192, 40]}, tensors, StepContext())


def test_inference_form_of_quantized_sites_agrees_with_them():
    model = random_dit()
    for role in ("patch_embed", "qkv", "fc1", "fc2"):
        round_weights(model, select(model.sites(), roles=(role,)), bits=4)
    for site in select(model.sites(), roles=("patch_embed", "fc2", "v")):
        quantize_site(model, site, activation=static(0.1))
    expected = output(model)
    prepared = prepare_inference(model)
    assert all(module.dense is not None for module in prepared.modules() if type(module) is QuantizedLinear)
    torch.testing.assert_close(output(prepared), expected, rtol=1e-3, atol=1e-2)


def test_operands_in_half_precision_change_no_bit_of_attention(monkeypatch):
    """Autocast of the CPU rounds the operands of products as that of a GPU does; q is multiplied by 1/√d before."""
    model, written = random_dit(), []
    for role in "qkpv":
        quantize_site(model, site_of(model, role), activation=static(0.02, 0 if role == "p" else 100))
    attention = prepare_inference(model).blocks[0].attn
    for role in "qkpv":
        getattr(attention, role).register_forward_hook(lambda _module, _input, y: written.append(y.dtype))
    for name, layer in (("qkv", torch.nn.Linear(48, 144)), ("proj", torch.nn.Identity())):
        monkeypatch.setattr(attention, name, layer)
    x = torch.randn(3, 16, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: True)
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)
        narrow = attention(x)
        for role in "kpv":
            getattr(attention, role).narrow = False
        wide = attention(x)
    assert written == [torch.float32, *[torch.bfloat16] * 3, *[torch.float32] * 4]
    assert torch.equal(narrow, wide) and len(narrow.unique()) > 100
