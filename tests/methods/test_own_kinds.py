"""A method of one file with its own quantizer, weight grid and transform: saved, loaded elsewhere, explained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qdit.core.errors import CheckpointError, ConfigError
from qdit.methods.quantize import quantize_model
from qdit.quant.activation import ACTIVATIONS, Activation, register_activation_kind
from qdit.quant.checkpoint import load_checkpoint, save_checkpoint
from qdit.quant.site_text import sites_text
from qdit.quant.transforms import TRANSFORMS
from qdit.quant.weight_kinds import WEIGHTS
from tests.methods.plugin import METADATA, forget_methods, installed
from tests.small_models import inputs, random_dit

PACKAGE = "qdit_plugin_with_kinds"
METHOD = '''"""Signs: a weight is ± one number per output; inputs are powers of two; channels are in reverse order."""

from copy import deepcopy
from dataclasses import dataclass

import torch

from qdit.core.affine import pack_codes
from qdit.core.options import CheckedOptions
from qdit.methods.method import Method, Quantized
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.activation import Activation, register_activation_kind
from qdit.quant.sites import quantize_site, transform_site
from qdit.quant.transforms import Transform, register_transform_kind
from qdit.quant.weight_kinds import StoredWeight, register_weight_kind, require_tensor, unpack


@register_transform_kind("reversed-of-a-test")
class Reversed(Transform):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x.flip(-1)

    def absorb(self, weight, bias):
        return weight.flip(-1), bias

    @classmethod
    def build(cls, facts, tensors, width):
        return cls(width)


@register_activation_kind("powers-of-a-test")
class Powers(Activation):
    def __init__(self, base):
        super().__init__()
        self.bits, self.base = 4, base

    def spec(self):
        return {"kind": self.kind, "bits": 4, "base": self.base}

    @classmethod
    def build(cls, spec, tensors):
        return cls(spec["base"])

    def forward(self, x):
        return torch.sign(x) * self.base ** (x.abs().clamp(min=1e-3).log2() / torch.tensor(self.base).log2()).round()


@register_weight_kind("signs-of-a-test")
@dataclass(frozen=True)
class Signs(StoredWeight):
    codes: torch.Tensor
    size: torch.Tensor
    bits = 1

    @property
    def shape(self):
        return tuple(self.codes.shape)

    def dequantize(self):
        return (2 * self.codes.float() - 1) * self.size.float()

    def tensors(self):
        return {"codes": pack_codes(self.codes, 1), "size": self.size}

    @classmethod
    def build(cls, facts, tensors, shape):
        return cls(unpack(tensors, 1, shape), require_tensor(tensors, "size", torch.float16, (shape[0], 1)))


@dataclass(frozen=True)
class SignsOptions(CheckedOptions):
    base: float = 2.0


class SignsMethod(Method):
    name = "signs"
    citation = "@misc{signs}"
    Options = SignsOptions

    def quantize(self, model, *, weight_bits, activation_bits, scope, calibration, options):
        model = deepcopy(model)
        for site in select(model.sites(), roles=CORE_ROLES):
            transform_site(model, site, Reversed(linear_of(model, site).weight.shape[1]))
            weight = linear_of(model, site).weight.detach()
            stored = Signs((weight > 0).int(), weight.abs().mean(1, keepdim=True).half())
            quantize_site(model, site, weight=stored, activation=Powers(options.base))
        return Quantized(model)
'''
LOAD = """
import sys, torch
torch.set_num_threads(1)
sys.path[:0] = {paths!r}
from pathlib import Path
from qdit.quant.checkpoint import load_checkpoint
from safetensors.torch import load_file
assert not any(name.startswith("{package}") for name in sys.modules)
model = load_checkpoint(Path({folder!r})).model
with torch.inference_mode():
    print(repr(float(model(*[load_file({data!r})[name] for name in "abc"]).double().sum())))
loaded = {{name for name in sys.modules if name.startswith("baselines.") or name == "qdit.methods.registry"}}
assert not loaded, f"only the module of the checkpoint's method is needed, not {{loaded}}"
"""


def write_package(folder: Path) -> Path:
    texts = {
        f"{PACKAGE}.py": METHOD,
        f"{PACKAGE}-1.dist-info/METADATA": METADATA.replace("qdit-plugin-of-a-test", "qdit-plugin-with-kinds"),
        f"{PACKAGE}-1.dist-info/entry_points.txt": f"[qdit.methods]\nsigns = {PACKAGE}:SignsMethod\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch):
    """The folder of the package and that of a checkpoint of its method; afterwards this process forgets the kinds."""
    package = write_package(tmp_path / "package")
    with installed(package, monkeypatch):
        quantized = quantize_model(random_dit(), "signs", weight_bits=2, activation_bits=4)
        with torch.inference_mode():
            expected = float(quantized.model(*inputs()).double().sum())
        save_checkpoint(tmp_path / "checkpoint", quantized, {"method": "signs"})
    forget()
    yield package, tmp_path / "checkpoint", expected
    forget()


def forget() -> None:
    for kinds in (ACTIVATIONS, WEIGHTS, TRANSFORMS):
        for name in [name for name in kinds.classes if name.endswith("-of-a-test")]:
            del kinds.classes[name]
    sys.modules.pop(PACKAGE, None)
    forget_methods()


def test_it_is_loaded_by_another_process_to_the_same_bits(checkpoint) -> None:
    package, folder, expected = checkpoint
    data = folder.parent / "inputs.safetensors"
    save_file(dict(zip("abc", inputs(), strict=True)), data)
    paths = [str(package), str(Path.cwd())]
    script = LOAD.format(paths=paths, package=PACKAGE, folder=str(folder), data=str(data))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == expected


def test_it_is_loaded_where_its_method_is_registered(checkpoint, monkeypatch) -> None:
    package, folder, expected = checkpoint
    with installed(package, monkeypatch), torch.inference_mode():
        assert float(load_checkpoint(folder).model(*inputs()).double().sum()) == expected


def test_without_the_method_the_reason_is_one_line(checkpoint) -> None:
    _, folder, _ = checkpoint
    with pytest.raises(
        CheckpointError, match=r"activation quantizer kind 'powers-of-a-test' .*method 'signs'"
    ) as problem:
        load_checkpoint(folder)
    assert "\n" not in str(problem.value)


def test_a_broken_file_of_the_method_is_named(checkpoint, monkeypatch) -> None:
    package, folder, _ = checkpoint
    (package / f"{PACKAGE}.py").write_text(METHOD + "\nraise ValueError('half written')\n", encoding="utf-8")
    with (
        installed(package, monkeypatch),
        pytest.raises(
            CheckpointError, match=rf"method 'signs' is broken: .*{PACKAGE}.py line \d+: ValueError: half written"
        ) as problem,
    ):
        load_checkpoint(folder)
    assert "\n" not in str(problem.value)


def test_a_checkpoint_does_not_choose_what_is_imported(checkpoint, tmp_path: Path, monkeypatch) -> None:
    """Only registered methods are imported: not a module that a configuration names, however it names it."""
    _, folder, _ = checkpoint
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = json.loads((folder / "config.json").read_text())
    from qdit.quant.folder import with_digest

    for method in ("evil", "evil:Evil", {"module": "evil"}, None):
        changed = {key: value for key, value in config.items() if key != "sha256"} | {"record": {"method": method}}
        (folder / "config.json").write_text(json.dumps(with_digest(changed)))
        with pytest.raises(CheckpointError, match="is not known"):
            load_checkpoint(folder)
    assert "evil" not in sys.modules


def test_it_is_explained_from_its_configuration_alone(checkpoint) -> None:
    _, folder, _ = checkpoint
    sites = json.loads((folder / "config.json").read_text())["sites"]
    lines = sites_text(sites)
    assert sum(int(line.split()[0]) for line in lines) == len(sites) == 8
    for line in lines:
        assert "input transform reversed-of-a-test | input powers-of-a-test (base 2.0, bits 4)" in line
        assert "weight signs-of-a-test, 1 bits" in line and "bytes beside the codes: weight " in line


def test_a_name_belongs_to_one_class() -> None:
    with pytest.raises(ConfigError, match=r"kind 'dynamic' of .*: qdit.quant.activation has this kind already"):

        @register_activation_kind("dynamic")
        class Other(Activation):
            pass
