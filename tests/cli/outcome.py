"""The outcome of a command that a test runs in its own process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NATURAL = "dit-digits-natural.safetensors"
SMALL = ["--steps", "2"]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Qdit = Callable[..., Outcome]


def assert_one_line(outcome: Outcome, *messages: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("qdit: error: ")
    assert outcome.err.count("\n") == 1
    for words in messages:
        assert words in outcome.err


def bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(bytes(data))
