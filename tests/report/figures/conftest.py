"""Results that look as if everything had been run and analysed: a miniature, or models of the papers' size."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.files import save_arrays
from qdit.report.figures.plan import comparisons, subjects
from qdit.report.figures.source import Source
from tests.report.conftest import all_keys, damage, make_wide_profile, record, save_samples, write_record

ROLES = ("qkv", "attn_out", "fc1", "fc2")
PARTS = ("q and k", "attention", "fc1", "MLP")
FRACTIONS = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)


def make_profile(*, long_names: bool = False) -> dict[str, Any]:
    """The wide profile of the tables' tests; with long names, a model's is as long as one may be."""
    profile = make_wide_profile()
    if long_names:
        model = "a-transformer-with-a-rather-long-name-xl-2-512"
        profile["models"] = {model: profile["models"]["dit-digits"]}
        for setting in profile["settings"].values():
            setting["model"] = model
    profile["tables"]["table2"]["blocks"][2]["methods"] = ["fp", *SEVEN]
    profile["tables"]["table2"]["blocks"][0]["methods"] = ["fp", *SEVEN]
    return profile


SEVEN = ["rtn", "ptq4dm", "repq-vit", "tfmq-dm", "ptq4dit", "g4w+p4a", "q-dit"]


def activations(*, blocks: int, steps: int, images: int, width: int) -> dict[str, np.ndarray]:
    """Arrays as `qdit analyze activations` writes them, of made-up values."""
    draw = np.random.default_rng(0)
    deviation = draw.uniform(0.1, 3, (4, blocks, steps))
    found: dict[str, Any] = {"roles": np.array(ROLES), "chosen": np.array([0, 1, blocks - 1, 1])}
    found |= {"timesteps": np.linspace(999, 0, steps).astype(int), "fractions": np.array(FRACTIONS)}
    found |= {"deviation": deviation, "ratio": draw.uniform(1, 20, (4, blocks))}
    found["quantiles"] = np.sort(draw.normal(0, 8, (4, blocks, steps, len(FRACTIONS))), axis=-1)
    found["sample_deviation"] = deviation[..., None] * draw.uniform(0.8, 1.3, (4, blocks, steps, images))
    for role in ROLES:
        inputs = 4 * width if role == "fc2" else width
        found[f"weight_map_{role}"] = draw.uniform(0, 0.012345, (min(width, 192), min(inputs, 192)))
        found[f"input_map_{role}"] = draw.uniform(0, 123.456, (16, min(inputs, 192)))
        found[f"salience_{role}"] = draw.lognormal(0, 1, (steps, inputs))
        found[f"weight_salience_{role}"] = draw.lognormal(-3, 0.5, inputs)
        found[f"weight_output_salience_{role}"] = draw.lognormal(-3, 0.5, width)
        for name in ("activation_error", "weight_error"):
            found[f"{name}_{role}"] = draw.lognormal(-9, 0.4, inputs)
        found[f"correlation_{role}"] = draw.uniform(-0.5, 0.5, steps)
    return found | {"record": np.array(json.dumps({"samples": images}))}


def errors(labels: tuple[str, ...], *, blocks: int, steps: int, images: int) -> dict[str, np.ndarray]:
    """Arrays as `qdit analyze errors` writes them: method n errs 10^n times as much as the first."""
    draw = np.random.default_rng(1)
    size = 10.0 ** np.arange(-6, len(labels) - 6)
    shapes = {"noise_error": (steps, images), "drift": (steps + 1, images), "layer_error": (blocks, len(PARTS))}
    found = {name: size[:, None, None] * draw.uniform(1, 2, (len(labels), *shape)) for name, shape in shapes.items()}
    found["drift"][:, 0] = 0
    found |= {"labels": np.array(labels), "status": np.array(["ok"] * len(labels)), "parts": np.array(PARTS)}
    found["timesteps"] = np.linspace(999, 0, steps).astype(int)
    return found | {"record": np.array(json.dumps({"samples": images}))}


def write_results(folder: Path, profile: dict[str, Any], **shape: int) -> Path:
    """Metrics, samples and analyses of a whole profile."""
    for key in all_keys(profile):
        write_record(folder, key, record(key, profile))
        save_samples(key.folder(folder), damage(key))
    width = shape.pop("width")
    for subject in subjects(profile):
        save_arrays(folder / subject.activations, activations(width=width, **shape))
        for comparison in comparisons(profile, subject):
            save_arrays(folder / comparison.errors, errors(comparison.labels, **shape))
    return folder


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A miniature, completely run."""
    profile = make_profile()
    folder = tmp_path_factory.mktemp("figures") / "mini"
    return Source(profile, write_results(folder, profile, blocks=7, steps=20, images=6, width=144))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The same with 28 blocks, 250 steps, 1152 channels and long names."""
    profile = make_profile(long_names=True)
    folder = tmp_path_factory.mktemp("figures") / "large"
    return Source(profile, write_results(folder, profile, blocks=28, steps=250, images=6, width=1152))
