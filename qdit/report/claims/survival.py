"""Check whether verdicts stay the same with other random draws: in replicates, and in runs with other seeds.

For a replicate, the claims are judged again with the replicate's numbers in place of the mean over all replicates
(`qdit.report.data.replicates.alone`). All other rows keep their numbers, so only claims that read a row with replicates
are compared. A run with another seed also has other noise, so all claims are compared. A verdict *survives* if it is
the same again. It *turns* if “holds” becomes “does not hold” or the reverse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.files import read_json
from qdit.report.claims.claims import FAILS, HOLDS, Claims, Verdict, judge_all
from qdit.report.claims.sources import Measured
from qdit.report.data.presence import require_results
from qdit.report.data.replicates import alone
from qdit.workflow.profile import validate
from qdit.workflow.replicates import replicate_count

DECIDED = (HOLDS, FAILS)


@dataclass(frozen=True)
class Comparison:
    """Verdicts of a run compared with those of another run: `words` is claim id → (first verdict, other verdict).

    `name` describes the other run. Only claims that the first run decided are compared.
    """

    name: str
    words: Mapping[str, tuple[str, str]]

    @property
    def changed(self) -> dict[str, tuple[str, str]]:
        """Claim id → (first verdict, other verdict), where the two differ."""
        return {claim: pair for claim, pair in self.words.items() if pair[0] != pair[1]}

    @property
    def survived(self) -> int:
        """Number of verdicts that are the same in both runs."""
        return len(self.words) - len(self.changed)

    @property
    def turned(self) -> int:
        """Number of verdicts that change from “holds” to “does not hold” or the reverse."""
        return sum(other in DECIDED for _, other in self.changed.values())

    @property
    def text(self) -> str:
        """Sentence about the comparison: `With replicate 1 in the place of replicate 0, 9 of 10 … stay`."""
        count = len(self.words)
        stay = f"{self.survived} of {count} decided {'verdict' if count == 1 else 'verdicts'}"
        stay += f" {'stays' if self.survived == 1 else 'stay'}"
        listed = "; ".join(f"{claim}: {before}, then {after}" for claim, (before, after) in self.changed.items())
        turned = f"; {self.turned} turned into the opposite" if self.changed else ""
        return f"With {self.name}, {stay}{turned}" + (f" ({listed})." if listed else ".")


def of_replicates(claims: Claims, source: Measured, verdicts: Mapping[str, Verdict]) -> list[Comparison]:
    """Compare the verdicts of a run with those of each replicate except replicate 0.

    The list is empty if no claim reads a row with replicates.
    """
    profile = source.profile
    counts = {name: max((replicate_count(profile, run) for run in of.runs), default=1) for name, of in verdicts.items()}
    comparisons = []
    for number in range(1, max(counts.values(), default=1)):
        other = judge_all(claims, Measured(alone(profile, number), source.results))
        ids = [name for name, count in counts.items() if count > number]
        comparisons.append(compared(f"replicate {number} in the place of replicate 0", verdicts, other, ids))
    return comparisons


def of_folders(claims: Claims, verdicts: Mapping[str, Verdict], folders: Sequence[Path]) -> list[Comparison]:
    """Compare the verdicts with those of each results folder in `folders`: runs of the profile with another seed.

    ConfigError if a folder's profile is not valid.
    """
    comparisons = []
    for folder in folders:
        require_results(folder)
        profile = profile_in(folder)
        other = judge_all(claims, Measured(profile, folder))
        comparisons.append(
            compared(f"the run of seed {profile['seed']} in {folder.name}", verdicts, other, list(verdicts))
        )
    return comparisons


def profile_in(folder: Path) -> dict[str, Any]:
    """Read and check the profile of a results folder. ConfigError if it is not valid."""
    path = folder / "profile.json"
    profile: dict[str, Any] = read_json(path)
    try:
        validate(profile)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}; run that profile again") from None
    return profile


def compared(
    name: str, verdicts: Mapping[str, Verdict], other: Mapping[str, Verdict], ids: Sequence[str]
) -> Comparison:
    """Compare the claims `ids`: each verdict that decides, beside the verdict on the same claim in `other`."""
    decided = [claim for claim in ids if verdicts[claim].word in DECIDED]
    return Comparison(name, {claim: (verdicts[claim].word, other[claim].word) for claim in decided})


def survival_text(comparisons: Sequence[Comparison], verdicts: Mapping[str, Verdict]) -> list[str]:
    """Write sentences for the page: how many verdicts were compared, and how many stay the same in each comparison."""
    decided = [claim for claim, verdict in verdicts.items() if verdict.word in DECIDED]
    if not comparisons:
        return [
            f"None of the {len(decided)} decided verdicts was compared with other draws: no row that they read has"
            " replicates, and no run with another seed was given."
        ]
    among = {claim for comparison in comparisons for claim in comparison.words}
    whole = sum(all(c.words[claim][1] == c.words[claim][0] for c in comparisons if claim in c.words) for claim in among)
    first = (
        f"{len(among)} of the {len(decided)} decided verdicts were compared with other draws of their rows; {whole} of"
        f" them {'stays' if whole == 1 else 'stay'} in each of {len(comparisons)}"
        f" {'comparison' if len(comparisons) == 1 else 'comparisons'}."
    )
    return [first, *(comparison.text for comparison in comparisons)]
