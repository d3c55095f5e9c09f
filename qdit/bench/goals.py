"""Goals of the project for speed and memory, and the check whether a measured value meets them (docs/benchmarks.md)."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["met, ambitious", "met", "missed", "not applicable", "not measured"]


@dataclass(frozen=True)
class Goal:
    """A goal: the required value and a better, ambitious one. With `at_most` smaller values are better."""

    name: str
    must: float
    ambitious: float | None = None
    at_most: bool = False

    def verdict(self, value: float) -> Verdict:
        """Say whether a value meets this goal."""
        if self.ambitious is not None and self._reaches(value, self.ambitious):
            return "met, ambitious"
        return "met" if self._reaches(value, self.must) else "missed"

    def _reaches(self, value: float, limit: float) -> bool:
        return value <= limit if self.at_most else value >= limit


@dataclass(frozen=True)
class Judged:
    """A goal with our measured value. `value` is None if there is none; then `why` gives the reason."""

    goal: Goal
    verdict: Verdict
    value: float | None = None
    medians: float | None = None
    why: str = ""

    @classmethod
    def measured(cls, goal: Goal, value: float, medians: float | None = None) -> "Judged":
        """Judge a ratio of shortest times. `medians` is the ratio of the medians, for comparison."""
        return cls(goal, goal.verdict(value), value, medians)

    @classmethod
    def without(cls, goal: Goal, verdict: Literal["not applicable", "not measured"], why: str) -> "Judged":
        """A goal without a measured value, and the reason."""
        return cls(goal, verdict, why=why)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        return asdict(self)

    @classmethod
    def of_dict(cls, record: dict[str, Any]) -> "Judged":
        """The inverse of `to_dict`."""
        return cls(**{**record, "goal": Goal(**record["goal"])})


def shortfall(judged: list[Judged]) -> list[str]:
    """One line for each goal that was missed or has no value. A report ends with these lines."""
    missed = [j for j in judged if j.verdict == "missed"]
    lines = [f"missed: {j.goal.name}: {j.value:.2f}, goal {limit(j.goal, j.goal.must)}" for j in missed]
    absent = [j for j in judged if j.verdict in ("not measured", "not applicable")]
    return lines + [f"{j.verdict}: {j.goal.name}: {j.why}" for j in absent]


def limit(goal: Goal, value: float | None) -> str:
    """Text of a limit: `≥ 2.30`."""
    return "–" if value is None else f"{'≤' if goal.at_most else '≥'} {value:.2f}"
