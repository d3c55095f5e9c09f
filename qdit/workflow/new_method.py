"""Write the files of a new method (`qdit new method NAME`): a method that works, its test, and an overlay that runs it.

The author then changes them.
"""

import keyword
import re
from pathlib import Path
from string import Template

from qdit.core.errors import ConfigError
from qdit.core.files import write_text
from qdit.core.repository import ROOT
from qdit.workflow.method_index import method_index

NAME = re.compile(r"[a-z][a-z0-9]*(?:[-+][a-z0-9]+)*")
LONGEST = 40

METHOD = Template('''\
"""$printed: one sentence about what it does to weights and activations.

Numbered details (the paper, its equation or section; every deviation from it):
1. Weights: asymmetric min-max per output channel, or per group of `group_size` input channels.
2. Activations: min-max per token (× group), computed on the fly; no calibration data.
3. Both scopes are the four linears of each block.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from qdit.core.options import CheckedOptions, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.apply import insert_dynamic, round_weights
from qdit.sampling.calibration import CalibrationSet


@dataclass(frozen=True)
class ${camel}Options(CheckedOptions):
    """Every field is a key that `options:` of a profile may hold; its annotation says which values are allowed."""

    group_size: GroupSize | None = None
    """Input channels that share a scale; None: all of them."""


class $camel(Method):
    """The title of its paper."""

    name = "$name"
    printed = "$printed"
    citation = """@misc{$stem,
  title = {$printed},
  author = {Nobody yet},
  year = {2026}
}"""
    calibration = ()
    Options = ${camel}Options

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: ${camel}Options,
    ) -> Quantized:
        """Put quantizers before the linears, then round the weights."""
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = {site.name: options.group_size for site in sites}
        if activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes)
        if weight_bits < FULL_PRECISION_BITS:
            round_weights(model, sites, bits=weight_bits, group_sizes=sizes)
        return Quantized(model)
''')

TEST = Template('''\
"""$printed: what it does beyond the contract, which tests/baselines/test_contract.py checks for every method."""

import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.methods.quantize import quantize_model
from tests.small_models import inputs, random_dit


def damage(**options):
    """Relative error of the output at W4A8."""
    model = random_dit()
    quantized = quantize_model(model, "$name", weight_bits=4, activation_bits=8, options=options).model
    with torch.inference_mode():
        full, rounded = model(*inputs()), quantized(*inputs())
    return float((rounded - full).norm() / full.norm())


def test_groups_do_less_damage_than_whole_rows():
    assert 0 < damage(group_size=8) < damage()


def test_a_group_size_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="legal"):
        damage(group_size=7)
''')

OVERLAY = Template("""\
# Over config/mini.yaml: $name beside round to nearest, on few images and steps.
# It says that everything works, not which method is better. For numbers that mean something use a setting of
# config/mini.yaml and remove profile, sampling and settings here.
#   snakemake --cores all $table --configfile config/mini.yaml $stem.yaml
profile: $stem
sampling: {images: 64}

settings:
  digits-cfg1.0-s10: {model: dit-digits, sampler: ddim, steps: 10, cfg_scale: 1.0}

methods:
  $name: {method: $name}

tables:
  $table:
    kind: variants
    title: $printed beside round to nearest
    opt_in: true
    blocks:
      - {setting: digits-cfg1.0-s10, form: natural, scope: common, bits: [w4a8], base: rtn,
         methods: [fp, rtn, $name]}
""")


def new_method(name: str, root: Path = ROOT) -> list[Path]:
    """Write the three files of a new method below `root`, and return their paths.

    ConfigError, and nothing is written, for a name that no method may have, and if the name or a file exists.
    """
    check_name(name)
    stem = re.sub(r"\W+", "_", name)
    words = {
        "name": name,
        "stem": stem,
        "table": f"{stem}_table",
        "camel": "".join(word.capitalize() for word in stem.split("_")),
        "printed": name.upper() if name.isalpha() and len(name) <= 4 else name.title(),
    }
    texts = {
        root / "baselines" / f"{stem}.py": METHOD,
        root / "tests" / "baselines" / f"test_{stem}.py": TEST,
        root / f"{stem}.yaml": OVERLAY,
    }
    for path in texts:
        if path.exists():
            raise ConfigError(f"{path}: exists already; choose another name, or move the file away")
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent}: no such folder; `qdit new method` works in a checkout of the repository")
    for path, text in texts.items():
        write_text(path, text.substitute(words))
    return list(texts)


def check_name(name: str) -> None:
    """Raise ConfigError for a name that no method may have, or that another method already has."""
    index = method_index()
    if NAME.fullmatch(name) is None or len(name) > LONGEST:
        raise ConfigError(
            f"method name {name[:60]!r}: allowed are lower-case letters and digits with - or + between them, a letter"
            f" first, at most {LONGEST} characters, e.g. my-method"
        )
    if keyword.iskeyword(name) or name in ("true", "false", "null", "yes", "no", "on", "off", "all", "training"):
        raise ConfigError(
            f"method name {name!r}: means something else in Python, YAML or the workflow; choose another name"
        )
    stem = re.sub(r"\W+", "_", name)
    if taken := [known for known in index.names if re.sub(r"\W+", "_", known) == stem]:
        raise ConfigError(f"method name {name!r}: a method named {taken[0]!r} exists already; choose another name")
