"""A network around a transformer of diffusers: it is a view, linears have roles, and DiT's form agrees with ours."""

from copy import deepcopy

import pytest
import torch

from qdit.core.errors import CheckpointError, ConfigError, Unsupported
from qdit.models.config import DiffusersConfig, DiTConfig
from qdit.models.diffusers_format import to_diffusers
from qdit.models.generic.families import FAMILIES
from qdit.models.generic.loading import load_network, require_storable, transformer_class
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import empty_network
from qdit.models.roles import CORE_ROLES, replace, select
from qdit.quant.activation import DynamicActivation
from qdit.quant.apply import gptq_weights, insert_dynamic, round_weights
from qdit.quant.batches import Keywords, run
from qdit.quant.gptq import HessianAccumulator, gptq
from qdit.quant.observe import observe_inputs
from tests.small_models import inputs, random_dit
from tests.small_transformers import ZOO, diffusers, keywords, tiny_network, tiny_transformer

LINEARS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
SHARES = {"sana": 0.94}  # its depthwise convolutions have no role


@pytest.mark.parametrize("name", ZOO)
def test_linears_have_roles(name: str) -> None:
    transformer = tiny_transformer(name)
    sites = DiffusersNetwork(transformer).sites()
    weights = {path: m.weight.numel() for path, m in transformer.named_modules() if isinstance(m, LINEARS)}
    named = {site.name for site in sites}
    assert sum(weights[path] for path in weights.keys() & named) >= SHARES.get(name, 0.99) * sum(weights.values())
    core = select(sites, roles=CORE_ROLES)
    assert core and all(site.block is not None and site.name.startswith(f"{site.inside}.") for site in core)
    assert len({site.name for site in sites}) == len(sites)


@pytest.mark.parametrize("name", ["flux", "wan", "qwen-image"])
def test_a_network_is_a_view_of_its_transformer(name: str) -> None:
    transformer = tiny_transformer(name)
    network, batch = DiffusersNetwork(transformer), keywords(name)
    assert network.state_dict().keys() == transformer.state_dict().keys()
    with torch.no_grad():
        expected = transformer(**batch.arguments(), return_dict=False)[0]
        assert torch.equal(run(network, batch), expected)
        copy = deepcopy(network)
        network.step_context.timestep = None
        run(copy, batch)
        assert network.step_context.timestep is None and copy.step_context.timestep is not None
        last = network.sites()[-1].name
        replace(copy, last, torch.nn.Identity())
        assert isinstance(copy.transformer.get_submodule(last), torch.nn.Identity)
        assert torch.equal(run(network, batch), expected)  # the original is another object
        assert copy.transformer is not transformer
    network.train()
    assert transformer.training
    network.to(torch.float64)
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.float64}


def test_the_timestep_of_each_row_is_published() -> None:
    network, batch = tiny_network("dit"), keywords("dit")
    with torch.no_grad():
        run(network, batch)
        assert torch.equal(network.step_context.timestep, batch.samples["timestep"])
        one = Keywords({k: v for k, v in batch.samples.items() if k != "timestep"}, {"timestep": torch.tensor([7])})
        network(**{**one.arguments(), "timestep": torch.tensor([7, 7, 7])})
    assert one.timestep.tolist() == [7, 7, 7]
    with pytest.raises(Unsupported, match="no single timestep"):
        _ = Keywords({"hidden_states": torch.zeros(2, 3), "timestep": torch.zeros(2, 5)}).timestep
    with pytest.raises(ConfigError, match=r"have \[2, 3\] rows"):
        Keywords({"hidden_states": torch.zeros(2, 3), "timestep": torch.zeros(3)})


OURS = DiTConfig(input_size=8, in_channels=2, hidden_size=48, depth=2, num_heads=3, num_classes=10)
PARTS = {"qkv": ("to_q", "to_k", "to_v")}


@pytest.fixture(scope="module")
def both():
    """Our DiT, the generic network of its diffusers form, and the same inputs for each."""
    ours = random_dit(OURS)
    x, timestep, label = inputs(OURS, count=4)
    batch = Keywords({"hidden_states": x, "timestep": timestep, "class_labels": label})
    return ours, DiffusersNetwork(to_diffusers(ours).eval()), (x, timestep, label), batch


def codes(model, role, block):
    """Codes, scales and zero points of all sites with a role in a block, one below the other."""
    modules = [model.get_submodule(s.name) for s in select(model.sites(), roles=(role,)) if s.block == block]
    return [torch.cat([getattr(m, name) for m in modules]) for name in ("codes", "scale", "zero_point")]


def test_the_generic_form_of_dit_is_ours(both) -> None:
    ours, generic, batch, named = both
    with torch.no_grad():
        torch.testing.assert_close(run(generic, named), ours(*batch), rtol=1e-4, atol=1e-5)
    for role in ("qkv", "attn_out", "fc1", "fc2", "adaln", "final_adaln", "final", "patch_embed"):
        shapes = [
            [m.get_submodule(s.name).weight.flatten(1).shape for s in select(m.sites(), roles=(role,))]
            for m in (ours, generic)
        ]
        assert sum(s[0] * s[1] for s in shapes[0]) == sum(s[0] * s[1] for s in shapes[1]), role


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_the_generic_form_of_dit_has_our_codes(both, method: str) -> None:
    ours, generic, batch, named = (deepcopy(value) for value in both)
    for model, data in ((ours, [batch]), (generic, [named])):
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = {site.name: 16 for site in sites}
        if method == "rtn":
            round_weights(model, sites, bits=4, group_sizes=sizes)
        else:
            gptq_weights(model, sites, data, bits=4, group_sizes=sizes)
    for role in ("qkv", "attn_out", "fc1", "fc2"):
        for block in range(2):
            for expected, result in zip(codes(ours, role, block), codes(generic, role, block), strict=True):
                assert expected.shape == result.shape
                if method == "rtn":
                    assert torch.equal(expected, result)
                else:  # their forward passes round differently, so a few codes of GPTQ differ
                    assert (expected != result).float().mean() < 0.02


def test_only_models_of_diffusers_are_built_from_names() -> None:
    for name in ("os.system", "DiffusionPipeline", "AutoencoderKL2", "Flux", 3, None):
        with pytest.raises(CheckpointError, match="diffusers 0.42.1 has no such model"):
            transformer_class(name)
    with pytest.raises(Unsupported, match="only classes of diffusers can be stored"):
        require_storable(DiffusersConfig("MyTransformer", {}))


def test_every_family_names_classes_and_pipelines_of_diffusers() -> None:
    for family in FAMILIES:
        assert all(transformer_class(name) for name in family.classes)
        assert family.pipeline is None or hasattr(diffusers, family.pipeline)


@pytest.mark.parametrize("name", ["wan", "qwen-image"])
def test_an_empty_network_has_its_buffers(name: str) -> None:
    """Their rotary positions are no parameters, so no file holds them."""
    network, before = tiny_network(name), torch.random.get_rng_state()
    empty = empty_network(network.config)
    assert torch.equal(before, torch.random.get_rng_state())
    empty.load_state_dict(network.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(run(empty, keywords(name)), run(network, keywords(name)))


def test_folders_are_loaded_from_safetensors_only(tmp_path) -> None:
    transformer = tiny_transformer("pixart")
    transformer.save_pretrained(tmp_path / "safe")
    with torch.no_grad():
        assert torch.equal(
            run(load_network(tmp_path / "safe"), keywords("pixart")), run(tiny_network("pixart"), keywords("pixart"))
        )
    transformer.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(CheckpointError, match="has neither .*safetensors"):
        load_network(tmp_path / "pickled")


def test_a_pointwise_convolution_is_quantized_as_a_linear() -> None:
    """Sana's MLP: codes by GPTQ and a range for each cell and group, as those of a linear with the same weight."""
    network, data = tiny_network("sana"), keywords("sana")
    site = next(s for s in network.sites() if s.name.endswith("0.ff.conv_inverted"))
    assert (site.role, site.kind) == ("fc1", "pointwise")
    seen: list[torch.Tensor] = []
    observe_inputs(network, [site], [data], lambda _site, x: seen.append(x))
    convolution = network.get_submodule(site.name)
    weight, bias = convolution.weight.detach().flatten(1), convolution.bias
    hessian = HessianAccumulator(32)
    activation = DynamicActivation(bits=6, group_size=8, sharing="token")
    hessian.add(activation(seen[0]))
    expected = gptq(weight, hessian.hessian, bits=4, group_size=8)
    insert_dynamic(network, [site], bits=6, group_sizes={site.name: 8})
    gptq_weights(network, [site], [data], bits=4, group_sizes={site.name: 8})
    quantized = network.get_submodule(site.name)
    assert torch.equal(quantized.weight, expected.dequantize())
    with torch.no_grad():
        result = quantized(seen[0].movedim(-1, 1))
        linear = torch.nn.functional.linear(activation(seen[0]), expected.dequantize(), bias)
    assert torch.equal(result, linear.movedim(-1, 1))
