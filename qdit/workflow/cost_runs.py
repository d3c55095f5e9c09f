"""Read facts about a run for the cost estimates: its calibration data, whether it learns, and its batch size."""

from collections.abc import Mapping
from typing import Any

from qdit.core.run import Run, split_bits
from qdit.workflow.calibration_counts import chosen_kind
from qdit.workflow.cost_models import Network
from qdit.workflow.method_index import MethodFacts, method_sources, planned_kinds
from qdit.workflow.profile import Profile

FULL_BITS = 16
"""Bits of what is not quantized."""
LARGE_CELLS = 4 * 64**2
"""Values of a latent of 512×512 pixels."""


def calibration_kinds(profile: Profile, run: Run) -> list[str]:
    """Return the kinds of calibration data that a run uses."""
    entry = profile["methods"][run.label]
    kinds = planned_kinds(entry["method"], entry.get("options", {}))
    return [chosen_kind(profile, run.setting, run.label, kind) for kind in kinds]


def learns(profile: Profile, label: str) -> bool:
    """Return whether the quantization of a label learns rounding; False if it corrects the result of a `base`."""
    entry = profile["methods"][label]
    method = method_sources().get(entry["method"])
    return method is not None and method.learns_rounding and "base" not in entry


def run_learns(profile: Profile, run: Run) -> bool:
    """Return whether the quantization of a run learns anything at its bits.

    A method that learns rounding only (`learns_scales = False`) has nothing to learn if weights keep 16 bits.
    """
    if not learns(profile, run.label):
        return False
    weight_bits, activation_bits = split_bits(run.bits)
    facts = method_sources()[profile["methods"][run.label]["method"]]
    return weight_bits < FULL_BITS or (facts.learns_scales and activation_bits < FULL_BITS)


def is_large(network: Network) -> bool:
    """Return whether the samples are at least 512×512 pixels large; then a method may use smaller batches."""
    return network.cells >= LARGE_CELLS


def learned_batch(facts: MethodFacts, options: Mapping[str, Any], *, large: bool) -> int:
    """Return the batch size of learned rounding: the option `batch`; with `large` at most `large_batch`."""
    batch = int(options["batch"])
    return min(batch, facts.large_batch) if large and facts.large_batch else batch
