"""The identity of a run, and facts that every room uses: bits, full precision, names of samplers."""

import re
from dataclasses import dataclass
from pathlib import Path

from qdit.core.errors import ConfigError

FULL_PRECISION_BITS = 16
"""Bits at which weights or activations stay as they are."""
FULL_PRECISION_METHOD = "fp"
"""Method that quantizes nothing."""
UNQUANTIZED = f"w{FULL_PRECISION_BITS}a{FULL_PRECISION_BITS}"
"""Bits of a run of full precision, as in its path."""
BITS = (*range(2, 9), FULL_PRECISION_BITS)
"""Bits that weights and activations can have."""

SIMULATE, INTEGER, IMPORTED, TOOL = "simulate", "integer", "imported", "tool"
"""Modes of a run. Imported samples were made by another program, without a checkpoint of ours. In the mode `tool` our
sampler asked a tool of other people, such as torchao, for each prediction."""

RECTIFIED_FLOW = "rectified-flow"
"""Sampler of clips, as a profile names it."""
PIPELINE = "pipeline"
"""Sampler of images that a whole pipeline of diffusers makes, as a profile and a protocol name it."""


def recorded_sampler(sampler: str) -> str:
    """The name that a protocol gives to a profile's sampler: `rectified flow` for `rectified-flow`, else the same.

    Old digests contain the name with a blank, so it cannot change.
    """
    return sampler.replace("-", " ")


def split_bits(bits: str) -> tuple[int, int]:
    """Weight bits and activation bits of a text: `w4a8` → (4, 8). ConfigError for other texts and numbers of bits."""
    match = re.fullmatch(r"w(0|[1-9]\d?)a(0|[1-9]\d?)", bits) if isinstance(bits, str) else None
    pair = (int(match[1]), int(match[2])) if match else (0, 0)
    if not set(pair) <= set(BITS):
        raise ConfigError(f"bits {bits!r}: expected weight and activation bits (2 to 8, or 16), e.g. w4a8")
    return pair


def ending(replicate: int) -> str:
    """The end of the file names of this replicate, for example `-r1`. Empty for replicate 0."""
    return f"-r{replicate}" if replicate else ""


@dataclass(frozen=True, order=True)
class Run:
    """Identity of a table row: setting, form, method label, bits, scope, mode and number of the replicate.

    A run in integer mode has no checkpoint of its own. It uses the checkpoint of the same run in mode simulate. The
    replicates 1, 2, … are the same row with other random draws of the method (`qdit.workflow.replicates`).
    """

    setting: str
    form: str
    label: str
    bits: str
    scope: str
    mode: str = SIMULATE
    replicate: int = 0

    @property
    def path(self) -> str:
        """Path of the run below `runs/`. Replicate 0 has the path that the row would have without replicates."""
        mode = "" if self.mode == SIMULATE else f"-{self.mode}"
        return f"{self.setting}/{self.form}/{self.label}/{self.bits}-{self.scope}{ending(self.replicate)}{mode}"

    @property
    def weight_bits(self) -> int:
        """Number of bits of the weights."""
        return split_bits(self.bits)[0]

    @property
    def activation_bits(self) -> int:
        """Number of bits of the activations."""
        return split_bits(self.bits)[1]

    def folder(self, results: Path) -> Path:
        """Folder of the run's files, below the results folder of its profile."""
        return results / "runs" / self.path
