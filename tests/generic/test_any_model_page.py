"""docs/any-model.md to the letter, on a transformer that no file of the suite names."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qdit.core.errors import ConfigError, Unsupported
from qdit.methods.any_model import quantize_transformer
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.checkpoint import quantized_sites, save_checkpoint

MOST_LINES = 15


class Mixing(nn.Module):
    """Single-head attention of the tokens of image and text."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values, self.join = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([text, image], dim=1)
        mixed = nn.functional.scaled_dot_product_attention(self.queries(both), self.keys(both), self.values(both))
        text, image = self.join(mixed).split([text.shape[1], image.shape[1]], dim=1)
        return image, text


class Layer(nn.Module):
    """A block of two streams whose outputs are in an order of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.wide, self.narrow = Mixing(), nn.Linear(32, 96), nn.Linear(96, 32)

    def forward(self, text: Tensor, *, image: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        mixed, words = self.mix(image + time[:, None], text)
        return text + words, image + mixed + self.narrow(self.wide(mixed).relu())


class Unheard(nn.Module):
    """A transformer with glue between its blocks: the text is mirrored, and the first image tokens are added again."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.clock, self.words = nn.Linear(6, 32), nn.Linear(1, 32), nn.Linear(10, 32)
        self.tower = nn.ModuleList(Layer() for _ in range(3))
        self.end = nn.Linear(32, 6)

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        image = first = self.begin(hidden_states)
        time, text = self.clock(timestep[:, None] / 1000), self.words(encoder_hidden_states)
        for layer in self.tower:
            text, image = layer(text.flip(1), image=image + 0.1 * first, time=time)
        return self.end(image)


@pytest.fixture
def own():
    """The transformer and 16 samples of its arguments, by the names of the page."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = Unheard().eval()
    return {
        "transformer": transformer,
        "latents": torch.randn(16, 9, 6, generator=draw),
        "timesteps": (1 + torch.arange(16) % 4) * 250.0,
        "texts": torch.randn(16, 4, 10, generator=draw),
    }


def code_of_the_page(repository: Path) -> str:
    page = (repository / "docs" / "any-model.md").read_text()
    (code,) = re.findall(r'```python title="my_transformer.py"\n(.*?)```', page, flags=re.DOTALL)
    return code


def test_the_page_quantizes_an_unknown_transformer(own, repository: Path, capsys) -> None:
    code = code_of_the_page(repository)
    assert len([line for line in code.splitlines() if line.strip()]) <= MOST_LINES
    with torch.no_grad():
        before = own["transformer"](own["latents"], own["timesteps"], own["texts"])
        exec(code, own)
        assert torch.equal(own["transformer"](own["latents"], own["timesteps"], own["texts"]), before)
    assert "qkv" in capsys.readouterr().out
    result = own["quantized"].model
    layers = quantized_sites(result)
    assert len(layers) == 3 * 6 and len(select(result.sites(), roles=CORE_ROLES)) == 3 * 6
    assert result.block_paths == ["tower.0", "tower.1", "tower.2"]
    assert all(layer.weight_bits == 4 for layer in layers.values())
    damage = (own["output"] - before).norm() / before.norm()
    assert 0 < damage < 0.2


def test_an_unknown_transformer_learns_its_rounding(own) -> None:
    namespace = {"roles": [(r"\.mix\.(queries|keys|values)$", "qkv"), (r"\.wide$", "fc1"), (r"\.narrow$", "fc2")]}
    samples = {
        "hidden_states": own["latents"],
        "timestep": own["timesteps"],
        "encoder_hidden_states": own["texts"],
    }
    result = quantize_transformer(
        own["transformer"],
        "ptq4dit",
        weight_bits=3,
        samples=samples,
        options={"csb": False, "iterations": 60, "batch": 8, "rate": 0.02},
        patterns=namespace["roles"],
    )
    curves = result.log["reconstruction"]["units"]
    assert [curve["name"] for curve in curves] == ["tower.0", "tower.1", "tower.2"]
    assert all(curve["after"] < curve["before"] for curve in curves)


def test_it_cannot_be_stored_by_name(own, tmp_path: Path) -> None:
    roles = [(r"\.wide$", "fc1")]
    result = quantize_transformer(
        own["transformer"], "rtn", options={"activation": "dynamic", "group_size": 8}, patterns=roles
    )
    with pytest.raises(Unsupported, match="Unheard: only classes of diffusers can be stored"):
        save_checkpoint(tmp_path, result, {})


def test_a_transformer_without_roles_is_refused(own) -> None:
    with pytest.raises(ConfigError, match="Unheard: no linear has a role; give `patterns`"):
        quantize_transformer(own["transformer"], "rtn", options={"activation": "dynamic"})


class Flat(nn.Module):
    """A transformer without any list of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.last = nn.Linear(6, 48), nn.Linear(48, 24), nn.Linear(24, 6)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        hidden = self.narrow(self.wide(hidden_states).relu() * (1 + timestep[:, None, None] / 1000))
        return self.last(hidden.relu())


@pytest.mark.parametrize(
    ("method", "options"),
    [("q-dit", {"group_size": 4}), ("ptq4dit", {"csb": False, "iterations": 80, "batch": 8, "rate": 0.02})],
)
def test_a_transformer_without_blocks_is_one_block(own, method: str, options: dict[str, object]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        flat = Flat().eval()
    samples = {"hidden_states": own["latents"], "timestep": own["timesteps"]}
    roles = [(r"wide$", "fc1"), (r"narrow$", "fc2")]
    given = {"weight_bits": 3, "activation_bits": 8, "samples": samples, "patterns": roles}
    result = quantize_transformer(flat, method, options=options, **given)
    plain = quantize_transformer(flat, "rtn", options={"activation": "dynamic"}, **given)
    assert result.model.block_paths == [""] and quantized_sites(result.model).keys() == {"wide", "narrow"}
    with torch.no_grad():
        full = flat(**samples)
        error, rounded = ((model.transformer(**samples) - full).norm() for model in (result.model, plain.model))
    assert 0 < error < rounded  # both methods look at the inputs and do better than rounding to nearest
    if method == "ptq4dit":
        (curve,) = result.log["reconstruction"]["units"]
        assert curve["after"] < curve["before"]
