"""Check whether verdicts stay the same with other random draws: in replicates, and in runs with other seeds.

For a replicate, the claims are judged again with the replicate's numbers in place of the mean over all replicates
(`qdit.report.data.replicates.alone`). All other rows keep their numbers, so only claims that read a row with replicates
are compared. A run with another seed also has other noise, so all claims are compared. A verdict *survives* if it is
the same again. It *turns* if “holds” becomes “does not hold” or the reverse. A verdict is not compared if the other run
lacks a row that it reads: a missing row, or a row without the number, is no disagreement.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qdit.core.errors import ConfigError, DataError
from qdit.core.metrics_record import FILE, read_record
from qdit.core.run import Run
from qdit.report.claims.claims import FAILS, HOLDS, Verdict
from qdit.report.claims.sources import Measured
from qdit.report.data.presence import require_results
from qdit.report.data.replicates import alone
from qdit.workflow.replicates import further_replicates, replicate_count

DECIDED = (HOLDS, FAILS)
Judge = Callable[[Measured, int], Mapping[str, Verdict]]
"""Judges all claims on one run, at the papers' bits or at W4A4. The correction counts at least so many claims."""


@dataclass(frozen=True)
class Comparison:
    """Verdicts of a run compared with those of another run: `words` is claim id → (first verdict, other verdict).

    `name` describes the other run. Only claims that the first run decided are compared. `lacking` are decided claims
    that were not compared, because the other run lacks a row or number that they read.
    """

    name: str
    words: Mapping[str, tuple[str, str]]
    lacking: tuple[str, ...] = ()

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
        """Sentence about the comparison: `With the run of seed 1 in seed1, 9 of 10 decided verdicts stay`."""
        count = len(self.words)
        stay = f"{self.survived} of {count} decided {'verdict' if count == 1 else 'verdicts'}"
        stay += f" {'stays' if self.survived == 1 else 'stay'}"
        listed = "; ".join(f"{claim}: {before}, then {after}" for claim, (before, after) in self.changed.items())
        turned = f"; {self.turned} turned into the opposite" if self.changed else ""
        text = f"With {self.name}, {stay}{turned}" + (f" ({listed})." if listed else ".")
        if not self.lacking:
            return text
        were = "is not compared" if len(self.lacking) == 1 else "are not compared"
        return f"{text} {len(self.lacking)} {were}: rows or numbers are missing there ({', '.join(self.lacking)})."


def of_replicates(judge: Judge, source: Measured, verdicts: Mapping[str, Verdict]) -> list[Comparison]:
    """Compare the verdicts of a run, by means over replicates, with those of each replicate alone, replicate 0 too.

    The list is empty if no claim reads a row with replicates. A row that lacks a replicate has the number of
    replicate 0 and no mean. So its claims are not compared with replicate 0.
    """
    profile = source.profile
    counts = {name: max((replicate_count(profile, run) for run in of.runs), default=1) for name, of in verdicts.items()}
    repeated = {name: count for name, count in counts.items() if count > 1}
    comparisons = []
    for number in range(max(repeated.values(), default=0)):
        ids = [name for name, count in repeated.items() if count > number]
        if number == 0:
            ids = [name for name in ids if has_all_replicates(source, verdicts[name])]
        if ids:
            other = judge(source.like(profile=alone(profile, number)), tested(verdicts))
            draw = f"replicate {number} alone in the place of the mean over the replicates"
            comparisons.append(compared(draw, verdicts, other, ids))
    return comparisons


def has_all_replicates(source: Measured, verdict: Verdict) -> bool:
    """Return whether all replicates of the rows that a verdict reads are made."""
    further = (run for row in verdict.runs for run in further_replicates(source.profile, row))
    return all((run.folder(source.results) / FILE).is_file() for run in further)


def of_folders(
    judge: Judge, source: Measured, verdicts: Mapping[str, Verdict], folders: Mapping[int, Path]
) -> list[Comparison]:
    """Compare verdicts with those of each run in `folders`: seed → results of the profile of `source` with this seed.

    A folder may hold only some rows, and no profile.json. The tables are those of `source`. A row that was made with
    other settings counts as missing.
    """
    comparisons = []
    for seed, folder in folders.items():
        other = judge(source.like(profile={**source.profile, "seed": seed}, results=folder), tested(verdicts))
        comparisons.append(compared(f"the run of seed {seed} in {folder.name}", verdicts, other, list(verdicts)))
    return comparisons


def folders_by_seed(source: Measured, folders: Sequence[Path]) -> dict[int, Path]:
    """Return seed → results folder of the run `source`, which comes first, and of each run in `folders`.

    DataError for a folder without rows; ConfigError if its seed is that of `source` or of another folder.
    """
    known = {int(source.profile["seed"]): source.results}
    for folder in folders:
        seed = seed_in(folder)
        if seed in known:
            raise ConfigError(
                f"--other {folder}: its rows have seed {seed}, as those of {known[seed]}; name results of another seed"
            )
        known[seed] = folder
    return known


def tested(verdicts: Mapping[str, Verdict]) -> int:
    """Return the number of claims that the correction for many claims counts."""
    return sum(verdict.p is not None for verdict in verdicts.values())


def seed_in(folder: Path) -> int:
    """Return the seed of the rows in a results folder.

    Damaged records and records without a seed are left out, as in the tables. DataError if no row with numbers is left,
    or if the rows have several seeds.
    """
    require_results(folder)
    seeds: dict[int, Path] = {}
    problems = []
    for path in sorted(folder.glob(f"runs/*/*/*/*/{FILE}")):
        try:
            seed = read_record(path).protocol.get("seed")
        except DataError as problem:
            problems.append(f"{path}: {problem}")
            continue
        if type(seed) is int:
            seeds.setdefault(seed, path)
    if len(seeds) > 1:
        (first, one), (second, other) = list(seeds.items())[:2]
        raise DataError(f"{folder}: {one} has seed {first}, {other} has seed {second}; keep the rows of one seed there")
    if not seeds:
        why = f" ({problems[0]})" if problems else ""
        raise DataError(f"{folder}: found no row with numbers{why}; finish that run first")
    return next(iter(seeds))


def compared(
    name: str, verdicts: Mapping[str, Verdict], other: Mapping[str, Verdict], ids: Sequence[str]
) -> Comparison:
    """Compare the claims `ids`: each verdict that decides, beside the verdict on the same claim in `other`.

    A claim is left out and listed in `lacking`, if `other` has not read a row that the first verdict has read.
    """
    decided = [claim for claim in ids if verdicts[claim].word in DECIDED]
    lacking = [claim for claim in decided if not rows_of_verdict(verdicts[claim]) <= rows_of_verdict(other[claim])]
    words = {claim: (verdicts[claim].word, other[claim].word) for claim in decided if claim not in lacking}
    return Comparison(name, words, tuple(lacking))


def rows_of_verdict(verdict: Verdict) -> set[Run]:
    """Return the rows whose numbers a verdict reads; a replicate counts as its row."""
    return {replace(run, replicate=0) for run in verdict.runs}


def survival_text(comparisons: Sequence[Comparison], verdicts: Mapping[str, Verdict], bits: str) -> list[str]:
    """Write sentences for the page: how many verdicts were compared, and how many stay the same in every comparison.

    `bits` says which verdicts: `at the papers’ bits`, for example.
    """
    decided = [claim for claim, verdict in verdicts.items() if verdict.word in DECIDED]
    if not comparisons:
        return [
            f"None of the {len(decided)} verdicts decided {bits} was compared with other draws: no row that they read"
            " has replicates, and no run with another seed was given."
        ]
    among = {claim for comparison in comparisons for claim in comparison.words}
    whole = sum(stays(comparisons, claim) for claim in among)
    first = (
        f"{len(among)} of the {len(decided)} verdicts decided {bits} were compared with other draws of their rows;"
        f" {whole} of them {'stays' if whole == 1 else 'stay'} the same"
        + (" in every comparison that has their rows." if len(comparisons) > 1 else ".")
    )
    return [first, *(comparison.text for comparison in comparisons)]


def stays(comparisons: Sequence[Comparison], claim: str) -> bool:
    """Return whether the verdict on a claim is the same in every comparison that has it."""
    return all(claim not in comparison.changed for comparison in comparisons)


@dataclass(frozen=True)
class Agreement:
    """How often a verdict was compared with other draws, how often it was the same, and how often rows were missing.

    `of_means` is true for a verdict on the means over runs. Then the draws are these runs, each alone.
    """

    compared: int
    agreeing: int
    lacking: int
    of_means: bool = False

    @property
    def text(self) -> str:
        """`the same verdict in 2 of 2 other draws`; empty if the verdict was never compared."""
        draws = "run" if self.of_means else "other draw"
        draws += "" if self.compared == 1 else "s"
        draws += " alone" if self.of_means else ""
        said = f"the same verdict in {self.agreeing} of {self.compared} {draws}" if self.compared else ""
        lacking = f"not compared with {self.lacking}, whose rows are missing" if self.lacking else ""
        return "; ".join(filter(None, (said, lacking)))


def agreement(comparisons: Sequence[Comparison], claim: str) -> Agreement:
    """Count the comparisons of one claim."""
    pairs = [comparison.words[claim] for comparison in comparisons if claim in comparison.words]
    lacking = sum(claim in comparison.lacking for comparison in comparisons)
    return Agreement(len(pairs), sum(before == after for before, after in pairs), lacking)
