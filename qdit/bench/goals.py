"""The project's goals for speed and memory, and the check whether a measured value meets them (docs/benchmarks.md)."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["met, ambitious", "met", "missed", "not applicable", "not measured"]


@dataclass(frozen=True)
class Goal:
    """A goal: `must` is the required value, `ambitious` a better one. With `at_most`, smaller values are better."""

    name: str
    must: float
    ambitious: float | None = None
    at_most: bool = False

    def verdict(self, value: float) -> Verdict:
        """Verdict about a value: "met, ambitious", "met" or "missed"."""
        if self.ambitious is not None and self._reaches(value, self.ambitious):
            return "met, ambitious"
        return "met" if self._reaches(value, self.must) else "missed"

    def _reaches(self, value: float, limit: float) -> bool:
        return value <= limit if self.at_most else value >= limit


@dataclass(frozen=True)
class Judged:
    """A goal, our measured value and the verdict. Without a value, `value` is None and `why` gives the reason."""

    goal: Goal
    verdict: Verdict
    value: float | None = None
    medians: float | None = None
    why: str = ""

    @classmethod
    def measured(cls, goal: Goal, value: float, medians: float | None = None) -> "Judged":
        """Compare a measured ratio of shortest times with its goal.

        `medians`, the ratio of the medians, is only recorded.
        """
        return cls(goal, goal.verdict(value), value, medians)

    @classmethod
    def without(cls, goal: Goal, verdict: Literal["not applicable", "not measured"], why: str) -> "Judged":
        """Record a goal that has no measured value, and the reason."""
        return cls(goal, verdict, why=why)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dictionary, for JSON."""
        return asdict(self)

    @classmethod
    def of_dict(cls, record: dict[str, Any]) -> "Judged":
        """Read the result of `to_dict` again."""
        return cls(**{**record, "goal": Goal(**record["goal"])})


def shortfall(judged: list[Judged]) -> list[str]:
    """One line of text for each goal that was missed or has no value. A report ends with these lines."""
    missed = [j for j in judged if j.verdict == "missed"]
    lines = [f"missed: {j.goal.name}: {j.value:.2f}, goal {limit(j.goal, j.goal.must)}" for j in missed]
    absent = [j for j in judged if j.verdict in ("not measured", "not applicable")]
    return lines + [f"{j.verdict}: {j.goal.name}: {j.why}" for j in absent]


def limit(goal: Goal, value: float | None) -> str:
    """Format the limit that a goal sets as text: `≥ 2.30`."""
    return "–" if value is None else f"{'≤' if goal.at_most else '≥'} {value:.2f}"
